"""Where does a saga stand? The data that its events are folded into, see `evolve`.

A state belongs to whoever folded it and is read-only for everybody else.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from eventsaga.core.definition import StepName
from eventsaga.core.events import JsonObject, Outcome, ParkReason, TurnReason

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Status(StrEnum):
    """The saga's standing, as users see it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    PARKED = "PARKED"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can happen any more without an explicit request to undo."""
        return self in _TERMINAL

    @property
    def is_settled(self) -> bool:
        """Whether the engine has nothing left to do: terminal, or waiting for a person."""
        return self in _SETTLED


_TERMINAL: Final = frozenset({Status.COMPLETED, Status.COMPENSATED, Status.FAILED})
_SETTLED: Final = _TERMINAL | {Status.PARKED}


class Phase(StrEnum):
    """Where one step stands."""

    RUNNING = "running"
    WAITING = "waiting"
    VERIFYING = "verifying"
    VERIFICATION_WAITING = "verification_waiting"
    SLEEPING = "sleeping"
    AWAITING = "awaiting"
    CHILD = "child"
    FANNED = "fanned"
    STUCK = "stuck"
    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    COMPENSATING = "compensating"
    COMPENSATION_WAITING = "compensation_waiting"
    CHILD_UNDO = "child_undo"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    UNCOMPENSATED = "uncompensated"


# Phases in which the effect succeeded, whatever became of it afterwards.
_HAPPENED: Final = frozenset(
    {
        Phase.SUCCEEDED,
        Phase.COMPENSATING,
        Phase.COMPENSATION_WAITING,
        Phase.CHILD_UNDO,
        Phase.COMPENSATED,
        Phase.COMPENSATION_FAILED,
        Phase.UNCOMPENSATED,
    }
)
_OPEN: Final = frozenset(
    {
        Phase.RUNNING,
        Phase.WAITING,
        Phase.VERIFYING,
        Phase.VERIFICATION_WAITING,
        Phase.SLEEPING,
        Phase.AWAITING,
        Phase.CHILD,
        Phase.FANNED,
        Phase.COMPENSATING,
        Phase.COMPENSATION_WAITING,
        Phase.CHILD_UNDO,
    }
)
_GAVE_UP: Final = frozenset({Phase.STUCK, Phase.COMPENSATION_FAILED})


@dataclass(slots=True)
class StepState:
    """What is known of one step that was started at least once; shared, hence read-only.

    Attributes:
        phase: Where it stands.
        attempt: Number of the last attempt of the effect.
        spent: Attempts of the effect that count against its policy.
        doubted: An attempt may have had its effect, and none has succeeded.
        retry_at: When the next attempt is due, or a time to wait is over.
        result: What the step returned.
        undo_attempt: Number of the last attempt of the compensation.
        undo_spent: Attempts of the compensation that count against its policy.
        message: What the last attempt that did not succeed reported.
        first_at: When its key was first sent; None before.
        undo_first_at: When the key of its compensation was first sent; None before.
        undo_doubted: An attempt of the compensation may have had its effect.
        waits_for: The signal that would end it; None if nothing would, or it is too late.
    """

    phase: Phase
    attempt: int = 1
    spent: int = 0
    doubted: bool = False
    retry_at: datetime | None = None
    result: JsonObject | None = None
    undo_attempt: int = 0
    undo_spent: int = 0
    message: str = ""
    first_at: datetime | None = None
    undo_first_at: datetime | None = None
    undo_doubted: bool = False
    waits_for: str | None = None

    def copy(self) -> "StepState":
        """Return one that can be changed without touching this one."""
        return StepState(
            self.phase,
            self.attempt,
            self.spent,
            self.doubted,
            self.retry_at,
            self.result,
            self.undo_attempt,
            self.undo_spent,
            self.message,
            self.first_at,
            self.undo_first_at,
            self.undo_doubted,
            self.waits_for,
        )

    @property
    def is_open(self) -> bool:
        """Whether something is under way, or will be without anybody's asking."""
        return self.phase in _OPEN

    @property
    def gave_up(self) -> bool:
        """Whether a person is needed."""
        return self.phase in _GAVE_UP

    @property
    def is_in_doubt(self) -> bool:
        """Whether the effect may have happened, nobody knows, and it is not undone."""
        return self.doubted and self.phase is not Phase.COMPENSATED

    @property
    def may_have_happened(self) -> bool:
        """Whether a compensation is owed: the effect succeeded, or nobody knows."""
        return self.doubted or self.phase in _HAPPENED

    @property
    def is_owed(self) -> bool:
        """Whether a compensation is owed and has not been settled."""
        return self.may_have_happened and self.phase not in _UNDO_SETTLED

    @property
    def outcome(self) -> Outcome:
        """What a compensation is told about the effect."""
        return Outcome.UNKNOWN if self.doubted else Outcome.SUCCEEDED


_UNDO_SETTLED: Final = frozenset(
    {Phase.COMPENSATED, Phase.COMPENSATION_FAILED, Phase.UNCOMPENSATED}
)


@dataclass(slots=True)
class Items:
    """The items of a group and how far it is; every answer costs the same for any number.

    Attributes:
        values: One for each step.
        into: Context field that takes the list of results; None to merge each result.
        begun: Steps that were started or skipped; the next one has this index.
        under_way: Steps that are open.
        done: Steps that have succeeded or were skipped.
        results: What the steps returned, if *into* takes them.
        patched: Context fields that the steps have set, each with one that set it.
        to_undo: On the way back: the steps that are still to be compensated, in order.
    """

    values: tuple[Any, ...]
    into: str | None = None
    begun: int = 0
    under_way: int = 0
    done: int = 0
    results: dict[int, JsonObject | None] = field(default_factory=dict[int, JsonObject | None])
    patched: dict[str, StepName] = field(default_factory=dict[str, StepName])
    to_undo: dict[StepName, None] = field(default_factory=dict[StepName, None])

    def collected(self) -> list[JsonObject | None]:
        """Return what the steps returned, in the order of the items."""
        return [self.results.get(index) for index in range(len(self.values))]

    def copy(self) -> "Items":
        """Return one that can be changed without touching this one."""
        after = copy.copy(self)
        after.results = self.results.copy()
        after.patched = self.patched.copy()
        after.to_undo = self.to_undo.copy()
        return after


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The first reason for which the saga goes back."""

    reason: TurnReason
    step: StepName | None
    message: str
    at: datetime


def start_key(key: str | None, tenant: str | None) -> str | None:
    """Return *key* as it stands among those of all tenants; None if there is none."""
    # No key and no tenant holds a control character.
    return key if key is None or tenant is None else f"{tenant}\x1f{key}"


@dataclass(slots=True)
class State:
    """A saga after some of its events.

    Attributes:
        saga_id: The saga.
        seq: Number of events folded; 0 before `SagaStarted`.
        status: Where it stands as a whole.
        context: The input with all results merged.
        input: JSON text of an input that is not validated yet; None if it is.
        steps: Every step that was started, in order of first start.
        open_steps: Those under way or due (a set that keeps its order).
        stuck_steps: Those that gave up, so that a person is needed.
        items: The groups whose items are known.
        succeeded: How many leaves of the definition have succeeded or were skipped.
        signals: What was said and is not waited for yet, by name, oldest first.
        signal_ids: Every signal that was ever taken.
        committed: Whether the pivot has succeeded: there is no way back.
        is_backward: Whether compensation has begun.
        turn: Why it goes back, from the moment that this is certain.
        park_reason: Why it waits for a person.
        park_message: What it waits for.
        park_remedy: What a person can do.
        park_at: Since when it waits.
        hook_attempts: How often the hook of the present status was tried.
        hook_at: When it is due again; None for now.
        hook_is_done: Whether it was delivered, or given up.
        uncompensated: What an abandoned saga left behind.
        deadline_at: After this it goes back; None for never.
        created_at: Time of the first event.
        updated_at: Time of the last event.
        settled_seq: Number of the event that settled it last; 0 before.
        shown_context: The context as of the last change of status, which the table shows.
        shown_seq: Number of the event that changed the status last.
        is_redacted: Whether a value was taken out of it: it may not fit its model any more.
    """

    saga_id: UUID
    seq: int = 0
    status: Status = Status.PENDING
    saga_name: str = ""
    version: int = 0
    fingerprint: str = ""
    correlation_id: str = ""
    key: str | None = None
    tenant: str | None = None
    trace: str | None = None
    parent_id: UUID | None = None
    parent_step: StepName | None = None
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    input: str | None = None
    steps: dict[StepName, StepState] = field(default_factory=dict[StepName, StepState])
    open_steps: dict[StepName, None] = field(default_factory=dict[StepName, None])
    stuck_steps: dict[StepName, None] = field(default_factory=dict[StepName, None])
    items: dict[StepName, Items] = field(default_factory=dict[StepName, Items])
    succeeded: int = 0
    signals: dict[str, tuple[JsonObject, ...]] = field(
        default_factory=dict[str, tuple[JsonObject, ...]]
    )
    signal_ids: set[UUID] = field(default_factory=set[UUID])
    committed: bool = False
    is_backward: bool = False
    turn: Turn | None = None
    park_reason: ParkReason | None = None
    park_message: str = ""
    park_remedy: str = ""
    park_at: datetime = _NEVER
    hook_attempts: int = 0
    hook_at: datetime | None = None
    hook_is_done: bool = False
    uncompensated: tuple[StepName, ...] = ()
    deadline_at: datetime | None = None
    created_at: datetime = _NEVER
    updated_at: datetime = _NEVER
    settled_seq: int = 0
    shown_context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shown_seq: int = 0
    is_redacted: bool = False

    @property
    def start_key(self) -> str | None:
        """What stands for the saga among all of its name; each tenant has keys of its own."""
        return start_key(self.key, self.tenant)

    def copy(self) -> "State":
        """Return a state that can be folded further without touching this one."""
        after = copy.copy(self)
        after.steps = self.steps.copy()
        after.open_steps = self.open_steps.copy()
        after.stuck_steps = self.stuck_steps.copy()
        after.items = {name: items.copy() for name, items in self.items.items()}
        after.signals = self.signals.copy()
        after.signal_ids = self.signal_ids.copy()
        return after

    def in_phase(self, *phases: Phase) -> Iterator[StepName]:
        """Yield the steps that stand in one of *phases*, in order of first start."""
        return (name for name, step in self.steps.items() if step.phase in phases)

    def open_in(self, *phases: Phase) -> Iterator[StepName]:
        """Yield the open steps that stand in one of *phases*; cheaper than `in_phase`."""
        return (name for name in self.open_steps if self.steps[name].phase in phases)

"""Did it happen once, and was it known? A saga's history held against the participants' ledger.

A ledger says what really took effect, whoever asked for it and whatever was answered:

    ledger = Ledger([Effect(saga_id, "charge", Operation.EXECUTE, key, at)], covers={"charge"})

Not an effect is a request that was refused, that came again under a key that had been seen,
or that undid something which had never been done. Nobody else is believed here: neither the
engine, nor what a participant answered.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from eventsaga.core.definition import StepName
from eventsaga.core.events import (
    Operation,
    SagaCompensated,
    SagaCompleted,
    StepCompensated,
    StepCompensationStarted,
    StepStarted,
    StepSucceeded,
)
from eventsaga.store.examine import Violation
from eventsaga.store.invariants.catalogue import (
    ALL_OR_COMPENSATED,
    INTENT_FIRST,
    KEY_STABILITY,
    LOCAL_ONCE,
    NO_FORWARD,
    ORDER,
    REMOTE_ONCE,
    UNDO_ONCE,
)
from eventsaga.store.invariants.owed import Backlog, Standing, base, compensation_given_up
from eventsaga.store.invariants.told import Told

Asked = tuple[StepName, Operation]

# See `eventsaga.core.draft.idempotency_key`; a step's name has no slash.
_KEY: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([^/]+)(/compensate)?")
_DONE: Final = {Operation.EXECUTE: "done", Operation.COMPENSATE: "undone"}


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that really took effect: a row of a participant's ledger.

    Attributes:
        saga_id: The saga that wanted it.
        step: The step; ``name[0]`` for an item of a group.
        operation: ``execute`` or ``compensate``.
        key: The idempotency key that came with it.
        at: When, by the clock of the database (or one that agrees with it): then it is held
            against the instants of the events, and of other effects. None if nobody knows.
        times: How often it was applied; a second row says the same as a second time.
        is_local: Whether it is a row of the user's own, written by a transactional step.
    """

    saga_id: UUID
    step: StepName
    operation: Operation
    key: str
    at: datetime | None = None
    times: int = 1
    is_local: bool = False

    @classmethod
    def of_key(cls, key: str, at: datetime | None = None, *, times: int = 1) -> "Effect":
        """Return the effect that *key* stands for, from a ledger that knows nothing else.

        Raises:
            ValueError: If it is no key of eventsaga's.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r} is not the key of a step")
        saga_id, step, undo = match.groups()
        operation = Operation.COMPENSATE if undo else Operation.EXECUTE
        return cls(UUID(saga_id), step, operation, key, at, times)

    @property
    def asked(self) -> Asked:
        """The operation of the step that it is the effect of."""
        return self.step, self.operation


class Ledger:
    """All effects, by saga.

    Args:
        effects: In any order.
        covers: The steps (of a group, its name) all of whose effects are in the ledger, those
            of their compensations too: then what is missing is missing. A step that is not
            named may have effects that nobody wrote down.
        is_whole: Whether the sagas that are judged are all that there are, so that an effect
            for another one is wrong.
    """

    def __init__(
        self,
        effects: Iterable[Effect],
        *,
        covers: Iterable[StepName] = (),
        is_whole: bool = True,
    ) -> None:
        self.covers = frozenset(covers)
        self.is_whole = is_whole
        self._effects: defaultdict[UUID, list[Effect]] = defaultdict(list)
        for effect in effects:
            self._effects[effect.saga_id].append(effect)

    def of(self, saga_id: UUID) -> Sequence[Effect]:
        """Return the effects of a saga."""
        return self._effects.get(saga_id, ())

    def strangers(self, seen: Iterable[UUID]) -> Iterator[Violation]:
        """Yield the effects of sagas that are not among those *seen*, and keys of two sagas."""
        known = set(seen)
        owner_of: dict[str, UUID] = {}
        for saga_id, effects in self._effects.items():
            if self.is_whole and saga_id not in known:
                steps = ", ".join(sorted({effect.step for effect in effects}))
                message = f"{steps} took effect for a saga that does not exist"
                yield Violation(saga_id, None, INTENT_FIRST, message)
            for key in {effect.key for effect in effects}:
                if owner_of.setdefault(key, saga_id) != saga_id:
                    message = f"key {key!r} is that of saga {owner_of[key]} too"
                    yield Violation(saga_id, None, KEY_STABILITY, message)


def judge_effects(told: Told, ledger: Ledger) -> list[Violation]:
    """Return what is wrong between a saga's history and its effects, by invariant.

    Args:
        told: A history that the grammar accepts, as a whole.
        ledger: What took effect.
    """
    seen = _Seen(told, ledger)
    return [violation for judge in _JUDGES for violation in judge(seen)]


class _Seen:
    """A history, its effects, and what both say of each operation."""

    def __init__(self, told: Told, ledger: Ledger) -> None:
        self.told = told
        self.effects = ledger.of(told.saga_id)
        self.covers = ledger.covers
        self.times = Counter[Asked]()
        self.local = {effect.asked for effect in self.effects if effect.is_local}
        self.standing = Standing()
        self.intents: dict[Asked, tuple[str, datetime | None]] = {}
        self.recorded: dict[Asked, int] = {}
        self.gave_up: set[StepName] = set()
        for effect in self.effects:
            self.times[effect.asked] += effect.times
        instants = told.recorded_at or (None,) * len(told.events)
        for (seq, event), at in zip(told.numbered(), instants, strict=True):
            self.standing.read(event)
            match event:
                case StepStarted(step=step, idempotency_key=key):
                    self.intents.setdefault((step, Operation.EXECUTE), (key, at))
                case StepCompensationStarted(step=step, idempotency_key=key, child_id=None):
                    self.intents.setdefault((step, Operation.COMPENSATE), (key, at))
                case StepSucceeded(step=step):
                    self.recorded[step, Operation.EXECUTE] = seq
                case StepCompensated(step=step):
                    self.recorded[step, Operation.COMPENSATE] = seq
                case _:
                    if (step := compensation_given_up(event) or "") != "":
                        self.gave_up.add(step)

    def violation(self, asked: Asked, invariant: int, message: str) -> Violation:
        step, operation = asked
        return self.told.violation(
            self.recorded.get(asked), invariant, f"step {step!r} was {_DONE[operation]} {message}"
        )

    def is_covered(self, step: StepName) -> bool:
        return base(step) in self.covers

    def first_at(self, step: StepName, operation: Operation) -> datetime | None:
        """Return when it took effect first; None if that is not known, or it did not."""
        instants = [e.at for e in self.effects if e.asked == (step, operation)]
        known = [at for at in instants if at is not None]
        return min(known) if known and len(known) == len(instants) else None


def _intent_first(seen: _Seen) -> Iterator[Violation]:
    """6: what took effect was meant to, and that was committed before."""
    for asked in seen.times:
        if asked not in seen.intents:
            yield seen.violation(asked, INTENT_FIRST, "and nobody meant it")
            continue
        effect_at, (_, meant_at) = seen.first_at(*asked), seen.intents[asked]
        if effect_at is not None and meant_at is not None and effect_at < meant_at:
            message = f"at {effect_at}, and meant only at {meant_at}"
            yield seen.violation(asked, INTENT_FIRST, message)


def _stable_keys(seen: _Seen) -> Iterator[Violation]:
    """7: it took effect under the key that it was meant under, and under no other."""
    owner_of: dict[str, Asked] = {}
    for asked in seen.times:
        keys = sorted({effect.key for effect in seen.effects if effect.asked == asked})
        meant = seen.intents[asked][0] if asked in seen.intents else keys[0]
        if keys != [meant]:
            message = f"under {', '.join(map(repr, keys))}, not under {meant!r}"
            yield seen.violation(asked, KEY_STABILITY, message)
        for key in keys:
            if owner_of.setdefault(key, asked) != asked:
                message = f"under the key {key!r} of another operation"
                yield seen.violation(asked, KEY_STABILITY, message)


def _once(seen: _Seen) -> Iterator[Violation]:
    """8, 9 and 13: nothing took effect twice, and what succeeded did."""
    for asked, times in seen.times.items():
        if times > 1:
            yield seen.violation(asked, _once_of(seen, asked), f"{times} times")
    for asked in seen.local:
        if asked not in seen.recorded and asked in seen.intents:
            yield seen.violation(asked, LOCAL_ONCE, "in a transaction that holds no result")
    for step, operation in seen.recorded:
        asked = (step, operation)
        is_meant = operation is Operation.EXECUTE and asked in seen.intents
        if is_meant and seen.is_covered(step) and not seen.times[asked]:
            number = LOCAL_ONCE if _is_transactional(seen, step) else REMOTE_ONCE
            message = f"step {step!r} is recorded as succeeded, and had no effect"
            yield seen.told.violation(seen.recorded[asked], number, message)


def _once_of(seen: _Seen, asked: Asked) -> int:
    if asked in seen.local:
        return LOCAL_ONCE
    return UNDO_ONCE if asked[1] is Operation.COMPENSATE else REMOTE_ONCE


def _is_transactional(seen: _Seen, step: StepName) -> bool:
    known = seen.told.known
    if known is None or not known.has_policies or base(step) not in known.definition.steps:
        return False
    return known.definition.task(base(step)).transactional


def _no_forward(seen: _Seen) -> Iterator[Violation]:
    """10: nothing takes effect after its own compensation."""
    for step, operation in seen.times:
        done_at = seen.first_at(step, Operation.EXECUTE)
        undone_at = seen.first_at(step, Operation.COMPENSATE)
        if operation is Operation.COMPENSATE or done_at is None or undone_at is None:
            continue
        if undone_at < done_at:
            message = f"at {done_at}, after it had been undone at {undone_at}"
            yield seen.violation((step, operation), NO_FORWARD, message)


def _all_or_compensated(seen: _Seen) -> Iterator[Violation]:
    """11: nothing is undone of a completed saga, and nothing is left of a compensated one."""
    status = _ending(seen)
    for step, operation in seen.times:
        undone = seen.times[step, Operation.COMPENSATE]
        if status is SagaCompleted and operation is Operation.COMPENSATE:
            yield seen.violation((step, operation), ALL_OR_COMPENSATED, "and the saga completed")
        elif operation is Operation.EXECUTE and not undone and seen.is_covered(step):
            said = (step, Operation.COMPENSATE) in seen.recorded
            if said:
                message = "and is recorded as compensated, and was not undone"
                yield seen.violation((step, operation), ALL_OR_COMPENSATED, message)


def _ending(seen: _Seen) -> type[SagaCompleted | SagaCompensated] | None:
    """Return how the saga ended last; None if it goes on, or was given up."""
    for event in reversed(seen.told.events):
        match event:
            case SagaCompleted() | SagaCompensated():
                return type(event)
            case StepCompensationStarted():
                return None
            case _:
                pass
    return None


def _reverse_order(seen: _Seen) -> Iterator[Violation]:
    """12: what depends on a step was undone before it."""
    if seen.told.known is None:
        return
    undone = {
        step: at
        for step, operation in seen.times
        if operation is Operation.COMPENSATE
        and step not in seen.gave_up  # it held up nobody, and was undone when it could be
        and base(step) in seen.told.known.definition.steps
        and (at := seen.first_at(step, operation)) is not None
    }
    # At one instant there is no order.
    in_order = sorted(undone, key=undone.__getitem__)
    backlog = Backlog(seen.told.known.definition, undone)
    settled = 0
    for step in in_order:
        while undone[in_order[settled]] < undone[step]:
            backlog.settle(in_order[settled])
            settled += 1
        late = [other for other in backlog.ahead_of(step) if _is_later(undone, other, step)]
        if late:
            asked = (step, Operation.COMPENSATE)
            yield seen.violation(asked, ORDER, f"before {', '.join(late)}, which came after it")


def _is_later(undone: dict[StepName, datetime], leaf: StepName, step: StepName) -> bool:
    return any(base(name) == leaf and at > undone[step] for name, at in undone.items())


_JUDGES: Final = (
    _intent_first,
    _stable_keys,
    _once,
    _no_forward,
    _all_or_compensated,
    _reverse_order,
)

"""Did the saga come through? Our own invariants, its effects, its ending, and the user's checks."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from eventsaga.client import Orchestrator
from eventsaga.client.verify import verify
from eventsaga.drill.recorder import Keyed, keyed
from eventsaga.drill.target import Ended, Target, ask
from eventsaga.store.invariants import INVARIANTS, Effect, Ledger


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be.

    Attributes:
        check: Which promise: ``invariant 9: …``, ``effects``, ``ending``, ``check``.
        message: What is wrong.
    """

    check: str
    message: str


async def judge(
    target: Target,
    orchestrator: Orchestrator,
    ended: Ended,
    *,
    expected: str | None,
    same_clock: bool,
) -> list[Finding]:
    """Return what is wrong with a saga that has ended.

    Args:
        target: What is drilled.
        orchestrator: Looks at the scratch database.
        ended: The saga.
        expected: How it must have ended, as a clean run did; None for a clean run.
        same_clock: Whether the server is on this machine, so that its instants and ours agree.
    """
    found: list[Finding] = []
    status = str(ended.state.status)
    if expected is not None and status != expected:
        found.append(Finding("ending", f"it ended as {status}, without a fault as {expected}"))
    counted = keyed(ended.requests)
    found += _twice(counted)
    async for finding in _broken(target, orchestrator, _ledger(counted, same_clock=same_clock)):
        found.append(finding)
    for check in target.checks:
        found += [Finding("check", message) for message in await ask(check, ended)]
    return found


async def _broken(
    target: Target, orchestrator: Orchestrator, ledger: Ledger
) -> AsyncIterator[Finding]:
    definitions = [saga.definition for saga in target.family]
    async for violation in verify(orchestrator.store, definitions=definitions, ledger=ledger):
        name = INVARIANTS[violation.invariant].name
        yield Finding(f"invariant {violation.invariant}: {name}", str(violation))


def _twice(counted: Sequence[Keyed]) -> list[Finding]:
    return [
        Finding(
            "effects",
            f"key {one.key} took effect {one.effects} times, in {one.requests} requests",
        )
        for one in counted
        if one.effects > 1
    ]


def _ledger(counted: Sequence[Keyed], *, same_clock: bool) -> Ledger:
    """Return what the steps' requests did, as far as their keys say for which step.

    A second request of a step has a key of its own; its effect is that of the first.
    """
    effects: list[Effect] = []
    for one in counted:
        if not one.effects or one.key.rpartition("#")[2].isdecimal():
            continue
        try:
            # How often is told by `_twice`, for all keys alike.
            effects.append(Effect.of_key(one.key, one.first_at if same_clock else None))
        except ValueError:
            continue  # the step chose the key itself
    return Ledger(effects)


def totals(counted: Sequence[Keyed]) -> dict[str, Any]:
    """Return how many requests there were, and how many effects each key had at most."""
    return {
        "keys": len(counted),
        "requests": sum(one.requests for one in counted),
        "most_effects_per_key": max((one.effects for one in counted), default=0),
    }

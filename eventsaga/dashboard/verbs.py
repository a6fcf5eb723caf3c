"""What may be asked of a saga from here? What it would take now, with a reason and a name."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from starlette.exceptions import HTTPException

from eventsaga.client import Orchestrator
from eventsaga.core.events import Resolution
from eventsaga.core.verbs import Verb
from eventsaga.dashboard import asking

VERBS: Final = tuple(verb.value for verb in Verb)


async def ask(orchestrator: Orchestrator, saga_id: UUID, fields: Mapping[str, str]) -> bool:  # noqa: C901 - a line for each verb
    """Ask a saga what *fields* say, and return whether it was taken already.

    Args:
        orchestrator: Open.
        saga_id: The saga.
        fields: ``verb``, ``reason`` and ``actor``; ``step`` and ``resolution`` where needed.

    Raises:
        HTTPException: If they do not fit together.
        IllegalCommandError: If the saga would not take it.
    """
    given = {name: asking.text(fields, name) for name in (*_FIELDS, "step", "resolution")}
    verb, reason, actor = (_needed(given, name) for name in _FIELDS)
    if verb not in VERBS:
        raise HTTPException(404, f"the verbs are {', '.join(VERBS)}")
    match Verb(verb):
        case Verb.CANCEL:
            return await orchestrator.cancel(saga_id, reason, actor=actor)
        case Verb.ABANDON:
            return await orchestrator.abandon(saga_id, reason=reason, actor=actor)
        case Verb.UNDO:
            return await orchestrator.undo(saga_id, reason=reason, actor=actor)
        case Verb.RETRY:
            step = given["step"]
            return await orchestrator.retry(saga_id, reason=reason, actor=actor, step=step)
        case Verb.SKIP:
            step = _needed(given, "step")
            return await orchestrator.skip(saga_id, step, reason=reason, actor=actor)
        case Verb.RESOLVE:
            step, resolution = _needed(given, "step"), _needed(given, "resolution")
            if resolution not in {known.value for known in Resolution}:
                raise asking.bad("resolution is succeeded, failed or compensated")
            return await orchestrator.resolve(
                saga_id, step, Resolution(resolution), reason=reason, actor=actor
            )


_FIELDS: Final = ("verb", "reason", "actor")


def _needed(given: Mapping[str, str | None], name: str) -> str:
    value = given[name]
    if value is None:
        raise asking.bad(f"{name} is needed")
    return value

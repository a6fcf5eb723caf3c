"""What may a person do about a saga? Each verb is a request that the saga takes or refuses."""

from typing import Annotated

import typer

from eventsaga.cli import target
from eventsaga.cli.ask import ANSWER_SECONDS, Actor, Patience, Reason, StepArgument, ask
from eventsaga.cli.fail import CommandError
from eventsaga.cli.given import FORMS, json_object
from eventsaga.cli.ids import MaybeSagaId, SagaId
from eventsaga.cli.output import AsJson
from eventsaga.cli.selecting import Asked, CountOption, filtering
from eventsaga.cli.target import DatabaseUrl, Schema
from eventsaga.core.events import Resolution


@filtering
async def cancel(
    saga_id: MaybeSagaId = None,
    *,
    asked: Asked,
    count: CountOption = None,
    reason: Reason,
    actor: Actor = None,
    patience: Patience = ANSWER_SECONDS,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Ask a saga to stop and to compensate what has happened.

    A saga that has ended, or has passed its pivot, refuses: exit 1, with what it would take.

    Example:
      eventsaga cancel 01a205d7 --reason 'the customer called'
    """
    target.aim(database_url, schema)
    return await ask(
        "cancel",
        saga_id,
        lambda orchestrator, found, who: orchestrator.cancel(
            found, reason, actor=who, timeout=patience
        ),
        asked=asked,
        count=count,
        reason=reason,
        actor=actor,
        as_json=as_json,
    )


@filtering
async def retry(
    saga_id: MaybeSagaId = None,
    *,
    asked: Asked,
    count: CountOption = None,
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            metavar="STEP",
            help="Only this step; otherwise all that gave up.",
            show_default=False,
        ),
    ] = None,
    reason: Reason,
    actor: Actor = None,
    patience: Patience = ANSWER_SECONDS,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Let a parked saga try again what gave up.

    It gets a new budget of attempts, and sends the same keys. Without an ID it is asked of all
    sagas that fit, once you have seen them and typed how many they are.

    Example:
      eventsaga retry 01a205d7 --reason 'the warehouse is open again'
      eventsaga retry --status PARKED --at release --reason 'the warehouse is open again'
      eventsaga retry 01a205d7 --step release --reason 'only this one'
    """
    target.aim(database_url, schema)
    return await ask(
        "retry",
        saga_id,
        lambda orchestrator, found, who: orchestrator.retry(
            found, step=step, reason=reason, actor=who, timeout=patience
        ),
        asked=asked,
        count=count,
        reason=reason,
        actor=actor,
        as_json=as_json,
    )


async def skip(
    saga_id: SagaId,
    step: StepArgument,
    *,
    reason: Reason,
    actor: Actor = None,
    patience: Patience = ANSWER_SECONDS,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Let a parked saga go on without a step.

    A compensation that gave up is skipped too: the step stays as it is. A saga with a
    compensation that was skipped ends as FAILED, and lists the step.

    Example:
      eventsaga skip 01a205d7 send_mail --reason 'told by phone'
    """
    target.aim(database_url, schema)
    return await ask(
        "skip",
        saga_id,
        lambda orchestrator, found, who: orchestrator.skip(
            found, step, reason=reason, actor=who, timeout=patience
        ),
        asked=Asked(),
        count=None,
        reason=reason,
        actor=actor,
        as_json=as_json,
    )


async def resolve(
    saga_id: SagaId,
    step: StepArgument,
    resolution: Annotated[
        Resolution,
        typer.Argument(metavar="OUTCOME", help="What became of it, as you found out."),
    ],
    *,
    result: Annotated[
        str | None,
        typer.Option(
            "--result",
            metavar="JSON",
            help=f"What the step would have returned: {FORMS}.",
            show_default=False,
        ),
    ] = None,
    reason: Reason,
    actor: Actor = None,
    patience: Patience = ANSWER_SECONDS,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Tell a parked saga what became of a step that gave up.

    OUTCOME is succeeded, failed (it did not happen) or compensated (it was undone by hand).

    Example:
      eventsaga resolve 01a205d7 charge failed --reason 'no such payment, the bank says'
      eventsaga resolve 01a205d7 charge succeeded --result '{"payment": "p-1"}' --reason found
    """
    target.aim(database_url, schema)
    given = None if result is None else json_object(result, "--result")
    if given is not None and resolution is not Resolution.SUCCEEDED:
        raise CommandError(
            f"--result goes with succeeded; a step that is {resolution} returned none"
        )
    return await ask(
        "resolve",
        saga_id,
        lambda orchestrator, found, who: orchestrator.resolve(
            found, step, resolution, result=given, reason=reason, actor=who, timeout=patience
        ),
        asked=Asked(),
        count=None,
        reason=reason,
        actor=actor,
        as_json=as_json,
    )


@filtering
async def abandon(
    saga_id: MaybeSagaId = None,
    *,
    asked: Asked,
    count: CountOption = None,
    reason: Reason,
    actor: Actor = None,
    patience: Patience = ANSWER_SECONDS,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """End a parked saga as FAILED.

    What stays uncompensated is listed in its history.

    Example:
      eventsaga abandon 01a205d7 --reason 'refunded by hand'
    """
    target.aim(database_url, schema)
    return await ask(
        "abandon",
        saga_id,
        lambda orchestrator, found, who: orchestrator.abandon(
            found, reason=reason, actor=who, timeout=patience
        ),
        asked=asked,
        count=count,
        reason=reason,
        actor=actor,
        as_json=as_json,
    )


@filtering
async def undo(
    saga_id: MaybeSagaId = None,
    *,
    asked: Asked,
    count: CountOption = None,
    reason: Reason,
    actor: Actor = None,
    patience: Patience = ANSWER_SECONDS,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Compensate a saga that has completed.

    Example:
      eventsaga undo 01a205d7 --reason 'returned within 14 days'
    """
    target.aim(database_url, schema)
    return await ask(
        "undo",
        saga_id,
        lambda orchestrator, found, who: orchestrator.undo(
            found, reason=reason, actor=who, timeout=patience
        ),
        asked=asked,
        count=count,
        reason=reason,
        actor=actor,
        as_json=as_json,
    )

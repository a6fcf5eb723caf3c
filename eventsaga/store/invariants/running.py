"""Who writes a history, and how often is something tried? Invariants 14 and 17."""

from collections import Counter
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from eventsaga.core.definition import ForEachDefinition, StepDefinition, StepName
from eventsaga.core.events import (
    Operation,
    SagaEvent,
    SagaParked,
    SagaRecovered,
    SagaRetried,
    StepCompensated,
    StepCompensationFailed,
    StepCompensationStarted,
    StepFailed,
    StepInDoubt,
    StepStarted,
    StepSucceeded,
    VerificationStarted,
)
from eventsaga.core.graph import SagaDefinition
from eventsaga.store.examine import Violation
from eventsaga.store.invariants.catalogue import (
    BOUNDED_TRYING,
    FENCE,
)
from eventsaga.store.invariants.owed import base
from eventsaga.store.invariants.told import Told

_SEVERAL: Final = 2


def one_writer(told: Told) -> Iterator[Violation]:
    """14: while an attempt runs one worker writes, until another one takes over.

    While none runs a saga changes hands without an event: it slept, and somebody woke it.
    """
    if len(set(told.workers)) + (SagaRecovered in told.kinds) < _SEVERAL:
        return
    running: set[tuple[StepName, bool]] = set()
    intruders: set[UUID | None] = set()  # once is enough for each
    owner: UUID | None = None
    for (seq, event), worker_id in zip(told.numbered(), told.workers, strict=True):
        if isinstance(event, SagaRecovered) and worker_id is not None:
            owner = event.worker_id
            if worker_id != owner:
                yield told.violation(seq, FENCE, f"{worker_id} wrote that {owner} took over")
        elif running and worker_id != owner and not isinstance(event, SagaParked):
            if worker_id not in intruders:
                message = f"written by {worker_id}, while {owner} ran the saga"
                yield told.violation(seq, FENCE, message)
            intruders.add(worker_id)
        else:
            owner = worker_id
        _keep_running(running, event)


def _keep_running(running: set[tuple[StepName, bool]], event: SagaEvent) -> None:
    match event:
        case StepStarted(step=step):
            running.add((step, False))
        case StepCompensationStarted(step=step, child_id=None):
            running.add((step, True))
        case StepSucceeded(step=step) | StepFailed(step=step):
            running.discard((step, False))
        case StepCompensated(step=step) | StepCompensationFailed(step=step):
            running.discard((step, True))
        case StepInDoubt(step=step, operation=operation):
            running.discard((step, operation is Operation.COMPENSATE))
        case SagaParked():
            running.clear()  # who parks a poison saga gives up what its workers left running
        case _:
            pass


def bounded_trying(told: Told) -> Iterator[Violation]:
    """17: attempts that were not cut short by the end of their process fit the policy."""
    if told.known is None or not told.known.has_policies:
        return
    definition = told.known.definition
    spent = Counter[tuple[StepName, Operation]]()
    asked: set[StepName] = set()
    for seq, event in told.numbered():
        counted = _counted(event, asked)
        if isinstance(event, SagaRetried):
            for step in event.steps:
                spent[step, Operation.EXECUTE] = spent[step, Operation.COMPENSATE] = 0
        if counted is None:
            continue
        spent[counted] += 1
        most = _most_attempts(definition, *counted)
        if most is not None and spent[counted] > most:
            step, operation = counted
            message = f"{spent[counted]} attempts to {operation} step {step!r}, {most} allowed"
            yield told.violation(seq, BOUNDED_TRYING, message)


def _counted(event: SagaEvent, asked: set[StepName]) -> tuple[StepName, Operation] | None:
    """Return of what *event* ends an attempt that spends the budget; None if it does not.

    An answer to a question is none: what it is about was counted when it ended.
    """
    match event:
        case VerificationStarted(step=step):
            asked.add(step)
            return None
        case StepSucceeded(step=step) | StepFailed(step=step, interrupted=None):
            is_answer = step in asked
            asked.discard(step)
            return None if is_answer else (step, Operation.EXECUTE)
        case StepCompensated(step=step) | StepCompensationFailed(step=step, interrupted=None):
            return step, Operation.COMPENSATE
        case StepInDoubt(step=step, operation=operation, interrupted=interrupted):
            is_answer = step in asked
            asked.discard(step)
            return None if interrupted or is_answer else (step, operation)
        case _:
            return None


def _most_attempts(definition: SagaDefinition, step: StepName, operation: Operation) -> int | None:
    leaf = definition.steps.get(base(step))
    is_item = isinstance(leaf, ForEachDefinition) and base(step) != step
    if not is_item and not isinstance(leaf, StepDefinition):
        return None
    task = definition.task(base(step))
    policy = task.compensate_retry if operation is Operation.COMPENSATE else task.retry
    return policy.max_attempts


def bounded_takeovers(told: Told) -> Iterator[Violation]:
    """17: a saga that kills whoever runs it is parked."""
    most = None if told.known is None else told.known.most_takeovers
    if most is None:
        return
    in_a_row = 0
    for seq, event in told.numbered():
        match event:
            case SagaRecovered():
                in_a_row += 1
                if in_a_row > most:
                    message = f"taken over {in_a_row} times without progress, {most} allowed"
                    yield told.violation(seq, BOUNDED_TRYING, message)
            case StepStarted() | StepCompensationStarted():
                pass
            case StepInDoubt(interrupted=True) | StepFailed(interrupted=True):
                pass
            case _:
                in_a_row = 0

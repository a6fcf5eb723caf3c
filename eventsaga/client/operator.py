"""What does a person, or another program, ask of a saga that is there? And does it take it?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel

from eventsaga.client.explain import Explanation, explain
from eventsaga.client.request import Requests
from eventsaga.client.standing import bound_to_parent, judged
from eventsaga.core.commands import ReceiveSignal
from eventsaga.core.decide import decide
from eventsaga.core.events import Resolution
from eventsaga.core.verbs import Legal, Verb
from eventsaga.identity import new_id
from eventsaga.runtime.mail import checked_payload, signal_id
from eventsaga.saga import Saga
from eventsaga.store.ports import DefinitionKey
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.payload import to_json_object

ANSWER_SECONDS: Final = 5.0
_HELD: Final = "it is held: the database was restored or failed over, and may have lost commits"
_HELD_REMEDY: Final = (
    "compare with the participants, then `eventsaga recover --accept-incarnation --reason '…'`"
)


class Operator:
    """Asks things of sagas; the part of `Orchestrator` that needs no worker.

    Args:
        store: Where the sagas are.
        sagas: What is registered here.
    """

    def __init__(self, store: PostgresStore, sagas: Mapping[DefinitionKey, Saga[Any]]) -> None:
        self.store = store
        self._sagas = sagas
        self._requests = Requests(store, sagas.values())

    async def signal(
        self,
        saga_id: UUID,
        name: str,
        payload: BaseModel | Mapping[str, Any] | None = None,
        *,
        id: UUID | str | None = None,  # noqa: A002 - the word of the field
        actor: str = "client",
        connection: object = None,
    ) -> None:
        """Tell a saga what it waits for, or will wait for; kept until then.

        On return the signal is durable. If its saga refuses it later, because it ended
        meanwhile, its row in the inbox says so for an hour.

        Args:
            saga_id: The saga.
            name: Name of the signal.
            payload: A mapping or a model; checked against the signal's model, here if the
                saga is registered here, and again by the worker that takes it.
            id: The same id is taken once; a text is hashed. None for a new one.
            actor: Who speaks; recorded.
            connection: The caller's own, as in `start`: said if his transaction commits.

        Raises:
            SagaNotFoundError: If there is no such saga.
            UnknownSagaError: If its definition is neither registered nor stored.
            IllegalCommandError: If it has ended, or never waits for such a signal.
            PayloadError: If the payload does not fit.
        """
        plain = to_json_object({} if payload is None else payload, what="payload")
        state, definition = await judged(self.store, self._sagas.values(), saga_id)
        bound = self._sagas.get((state.saga_name, state.version, state.fingerprint))
        if bound is not None:
            plain = dict(checked_payload(bound, name, plain))
        message_id = new_id() if id is None else signal_id(saga_id, name, id)
        decide(
            definition,
            state,
            ReceiveSignal(
                at=state.updated_at, signal=name, id=message_id, payload=plain, actor=actor
            ),
        )
        await self._requests.post(
            saga_id,
            "signal",
            {"name": name, "payload": plain},
            actor,
            message_id=message_id,
            connection=connection,
        )
        self._poke()

    async def cancel(
        self,
        saga_id: UUID,
        reason: str,
        *,
        actor: str = "client",
        timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
    ) -> bool:
        """Ask a saga to stop and go back; what has happened is compensated.

        On return the request is durable, and was taken if a worker had time for it.

        Args:
            saga_id: The saga.
            reason: Recorded with the request.
            actor: Who asks; recorded too.
            timeout: Wait so many seconds for the saga to take it; 0 for not at all.

        Returns:
            Whether it was taken; if not, it is as soon as a worker comes to it.

        Raises:
            SagaNotFoundError: If there is no such saga.
            UnknownSagaError: If its definition is neither registered nor stored.
            IllegalCommandError: If it has ended, or there is no way back: it has passed
                its pivot.
            PayloadError: If *reason* or *actor* cannot be stored.
        """
        return await self._ask(saga_id, Legal(Verb.CANCEL), {"reason": reason}, actor, timeout)

    async def retry(
        self,
        saga_id: UUID,
        *,
        reason: str,
        actor: str,
        step: str | None = None,
        timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
    ) -> bool:
        """Let a parked saga try again what gave up: *step*, or all if it is None.

        See `cancel` for what is returned and raised.
        """
        data = {"reason": reason, "step": step}
        return await self._ask(saga_id, Legal(Verb.RETRY, step), data, actor, timeout)

    async def skip(
        self,
        saga_id: UUID,
        step: str,
        *,
        reason: str,
        actor: str,
        timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
    ) -> bool:
        """Let a parked saga go on without a step, or leave it uncompensated.

        A saga with a compensation that was skipped ends as ``FAILED``. See `cancel` for what
        is returned and raised.
        """
        data = {"reason": reason, "step": step}
        return await self._ask(saga_id, Legal(Verb.SKIP, step), data, actor, timeout)

    async def resolve(
        self,
        saga_id: UUID,
        step: str,
        resolution: Resolution | Literal["succeeded", "failed", "compensated"],
        *,
        reason: str,
        actor: str,
        result: BaseModel | Mapping[str, Any] | None = None,
        timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
    ) -> bool:
        """Tell a parked saga what became of a step.

        Args:
            saga_id: The saga.
            step: A step that gave up.
            resolution: That it ``succeeded``, did not happen (``failed``), or was undone by
                hand (``compensated``).
            reason: How that was found out; recorded.
            actor: By whom; recorded too.
            result: What the step would have returned; of a signal, its payload.
            timeout: See `cancel`, also for what is returned and raised.
        """
        plain = None if result is None else to_json_object(result, what="result")
        data = {"reason": reason, "step": step, "resolution": resolution, "result": plain}
        legal = Legal(Verb.RESOLVE, step, Resolution(resolution))
        return await self._ask(saga_id, legal, data, actor, timeout)

    async def abandon(
        self,
        saga_id: UUID,
        *,
        reason: str,
        actor: str,
        timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
    ) -> bool:
        """End a parked saga as ``FAILED``; what stays uncompensated is listed in its history.

        See `cancel` for what is returned and raised.
        """
        return await self._ask(saga_id, Legal(Verb.ABANDON), {"reason": reason}, actor, timeout)

    async def undo(
        self,
        saga_id: UUID,
        *,
        reason: str,
        actor: str,
        timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
    ) -> bool:
        """Compensate a saga that has completed. See `cancel` for what is returned and raised.

        A child is undone with its parent, and by itself only if the parent was abandoned.
        """
        return await self._ask(saga_id, Legal(Verb.UNDO), {"reason": reason}, actor, timeout)

    async def explain(self, saga_id: UUID) -> Explanation:
        """Return why a saga is where it is, and what may be asked of it.

        Raises:
            SagaNotFoundError: If there is no such saga.
            UnknownSagaError: If its definition is neither registered nor stored.
        """
        state, definition = await judged(self.store, self._sagas.values(), saga_id)
        explained = explain(definition, state)
        if (await self.store.incarnation()).holds(state):
            explained = replace(explained, why=(*explained.why, _HELD), remedy=_HELD_REMEDY)
        if Verb.UNDO.value in explained.legal and await bound_to_parent(self.store, state):
            legal = tuple(verb for verb in explained.legal if verb != Verb.UNDO.value)
            return replace(explained, legal=legal)
        return explained

    async def _ask(
        self,
        saga_id: UUID,
        legal: Legal,
        data: Mapping[str, Any],
        actor: str,
        timeout: float,  # noqa: ASYNC109
    ) -> bool:
        await self._requests.require(saga_id, legal)
        message = await self._requests.post(saga_id, legal.verb.value, data, actor)
        self._poke()
        return await self._requests.answered(message, timeout)

    def _poke(self) -> None:
        """Let a worker that is at hand look at once; there is none here."""

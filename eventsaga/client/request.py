"""How is something asked of a saga? A row in its inbox, and the answer of whoever takes it.

What is plainly illegal is refused here already, by the same rules.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID

from eventsaga.client.standing import bound_to_parent, judged
from eventsaga.core.verbs import Legal, Verb, require
from eventsaga.errors import IllegalCommandError, SagaNotFoundError
from eventsaga.identity import new_id
from eventsaga.runtime.prepare import printable
from eventsaga.saga import Saga
from eventsaga.store.ports import Message, Reply
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.wire.payload import to_json_object

_MAX_ACTOR: Final = 200
_SHORTEST: Final = 0.01
_LONGEST: Final = 0.5


class Requests:
    """Leaves requests, and waits for their answers.

    Args:
        store: Where the inboxes are.
        sagas: What is registered here.
    """

    def __init__(self, store: PostgresStore, sagas: Collection[Saga[Any]]) -> None:
        self._store = store
        self._sagas = sagas

    async def require(self, saga_id: UUID, legal: Legal) -> None:
        """Refuse what the saga would refuse now.

        Raises:
            SagaNotFoundError: If there is no such saga.
            IllegalCommandError: With the requests that would be legal.
        """
        state, definition = await judged(self._store, self._sagas, saga_id)
        require(definition, state, *legal)
        if legal.verb is Verb.UNDO:
            bound = await bound_to_parent(self._store, state)
            if bound is not None:
                raise IllegalCommandError(str(legal), bound)

    async def post(
        self,
        saga_id: UUID,
        kind: str,
        data: Mapping[str, Any],
        actor: str,
        *,
        message_id: UUID | None = None,
        connection: object = None,
    ) -> Message:
        """Leave a request; on return it is durable, unless it is in the caller's transaction.

        Raises:
            SagaNotFoundError: If there is no such saga.
            PayloadError: If it cannot be stored.
        """
        message = Message(
            saga_id=saga_id,
            message_id=message_id or new_id(),
            kind=kind,
            data=to_json_object(data),
            actor=printable("actor", actor, _MAX_ACTOR),
        )
        if connection is None:
            is_left = await self._store.post(message)
        else:
            is_left = await self._store.post_within(connection, message)
        if not is_left:
            raise SagaNotFoundError(saga_id)
        return message

    async def answered(self, message: Message, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait for the answer to *message*, and return whether there was one in time.

        Raises:
            IllegalCommandError: If the saga refused it.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + timeout, _SHORTEST
        while loop.time() < until:
            answer = await self._store.answer(message.saga_id, message.message_id)
            match answer.reply:
                case Reply.TAKEN:
                    return True
                case Reply.REFUSED:
                    raise IllegalCommandError.read(message.kind, answer.reason)
                case Reply.OPEN:
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST, pause * 1.5)
        return False

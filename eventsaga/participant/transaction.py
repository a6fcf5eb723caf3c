"""How do a key, its effect and its reply become one commit? In this transaction.

The lock of a key tells the second of two requests at once that the first is still running.
Correctness does not rest on it: it rests on the primary key, by which only one of two
transactions can store a reply and therefore commit its effect.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any, Final

from sqlalchemy import Executable, RootTransaction, Text, bindparam, event, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from eventsaga.errors import TransactionMisusedError
from eventsaga.participant.asgi import Reply
from eventsaga.participant.barrier import TABLES
from eventsaga.participant.tables import ParticipantTables

# Connection, rollback, resources, operator intervention, lock timeout, a standby.
_PASSING: Final = ("08", "40", "53", "57", "58", "55P03", "25006")
# The server may have committed although an error came back.
_UNKNOWN: Final = ("08", "57P")

_STORED: Final = ("caller", "key", "fingerprint", "status", "headers", "body")


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """What is stored of a request.

    Attributes:
        caller: Whose key it is.
        key: The key.
        fingerprint: SHA-256, equal for equal requests.
    """

    caller: str
    key: str
    fingerprint: bytes

    @property
    def lock(self) -> str:
        """What PostgreSQL locks, by its hash.

        Two keys may have the same one: then one of them is told that it is still running.
        """
        return f"{len(self.caller)}/{self.caller}/{self.key}"


class Answer(Enum):
    """What a key says before its request is applied.

    `FREE`: it is new; apply the request.
    `RUNNING`: another request with it is being applied.
    `OTHER`: it was used for another request.
    """

    FREE = auto()
    RUNNING = auto()
    OTHER = auto()


class End(Enum):
    """What became of a transaction.

    `COMMITTED`: effect, key and reply are there.
    `RACED`: another request with the same key has committed; nothing was written.
    `NOTHING`: PostgreSQL could not; nothing was written, and another try makes sense.
    `UNKNOWN`: COMMIT was sent and not answered.
    """

    COMMITTED = auto()
    RACED = auto()
    NOTHING = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class _Statements:
    """What is said to PostgreSQL; built once, because that takes longer than to run it."""

    lock: Executable
    read: Executable
    store: Executable


@cache
def _statements(tables: ParticipantTables) -> _Statements:
    keys = tables.keys.c
    # Advisory locks belong to the database, in which others may have such tables, too.
    schema = func.coalesce(literal(tables.keys.schema, Text), func.current_schema())
    locked = func.concat_ws("/", schema, bindparam("lock", type_=Text))
    storing = insert(tables.keys).values({name: bindparam(name) for name in _STORED})
    return _Statements(
        lock=select(func.pg_try_advisory_xact_lock(func.hashtextextended(locked, 0))),
        read=select(keys.fingerprint, keys.status, keys.headers, keys.body).where(
            keys.caller == bindparam("caller"), keys.key == bindparam("key")
        ),
        # It waits for a transaction that has stored the same key, until that has ended.
        store=storing.on_conflict_do_nothing().returning(keys.key),
    )


class KeyTransaction:
    """The transaction of one request.

    Args:
        engine: Where the effect and the key are written.
        tables: The participant's tables.
        request: What is stored of the request.
        patience: Seconds within which PostgreSQL has to answer.
    """

    def __init__(
        self, engine: AsyncEngine, tables: ParticipantTables, request: KeyedRequest, patience: float
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._statements = _statements(tables)
        self._request = request
        self._patience = patience
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._root_transaction: RootTransaction | None = None
        self._session: AsyncSession | None = None
        self._may_commit = False

    @property
    def session(self) -> AsyncSession:
        """The session of a request that is to be applied."""
        assert self._session is not None, "the key was free"
        return self._session

    async def begin(self) -> Answer | Reply:
        """Begin, lock the key and look it up; return the reply if one is stored.

        Raises:
            TransactionMisusedError: If the engine commits each statement by itself.
            Exception: Whatever the database says; nothing was done. See `is_passing`.
        """
        async with asyncio.timeout(self._patience):
            connection = await self._engine.connect()
            self._connection = connection
            self._driver = (await connection.get_raw_connection()).driver_connection
            await connection.begin()
            is_first = await self._lock(connection)
            if not self._driver.is_in_transaction():
                raise TransactionMisusedError("the engine is in autocommit mode")
            # A statement of its own: its snapshot must be younger than the lock. And without
            # the lock, too: whoever holds it may be repeating a reply, as we are to do.
            stored = await self._read(connection)
        if stored is not None:
            return stored
        if not is_first:
            return Answer.RUNNING
        assert connection.sync_connection is not None
        self._root_transaction = connection.sync_connection.get_transaction()
        event.listen(connection.sync_connection, "commit", self._before_commit)
        # It works in a savepoint, so code that ends its own units of work can be used.
        self._session = AsyncSession(
            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        self._session.info[TABLES] = self._tables
        return Answer.FREE

    async def commit(self, reply: Reply, headers: list[list[str]]) -> End:
        """Store *reply* under the key and commit it with the effect.

        Raises:
            TransactionMisusedError: If the application ended the transaction.
            Exception: If what the application wrote cannot be committed; nothing was.
        """
        connection = self._open
        try:
            async with asyncio.timeout(self._patience):
                self._require_untouched(connection)
                await self.session.commit()
                self._require_untouched(connection)
                if not await self._store(connection, reply, headers):
                    return End.RACED
        except Exception as error:
            if is_passing(error):
                return End.NOTHING
            raise
        return await self._commit(connection)

    async def store_refusal(self, reply: Reply, headers: list[list[str]]) -> End:
        """Roll the effect back, and store *reply* in a transaction that holds nothing else."""
        connection = self._open
        try:
            async with asyncio.timeout(self._patience):
                await self.session.close()
                await connection.rollback()
                await connection.begin()
                # Between the two transactions another request with the key may have come.
                if not await self._lock(connection):
                    return End.RACED
                if not await self._store(connection, reply, headers):
                    return End.RACED
        except Exception as error:
            if is_passing(error):
                return End.NOTHING
            raise
        # A refusal has no effect, so it is never in doubt whether it took place.
        end = await self._commit(connection)
        return End.NOTHING if end is End.UNKNOWN else end

    async def rollback(self) -> None:
        """Undo everything, and give the connection back. Called again, does nothing."""
        connection = self._connection
        if connection is None:
            return
        with suppress(Exception):
            async with asyncio.timeout(self._patience):
                if self._session is not None:
                    await self._session.close()
                await connection.rollback()
                await self._give_back(connection)
        self.discard()

    def discard(self) -> None:
        """Close the connection at once, unless it was given back; the server rolls back.

        It waits for nothing, so a task that is being cancelled can call it.
        """
        connection, self._connection = self._connection, None
        root = None if connection is None else connection.sync_connection
        if root is None or root.closed:
            return
        if self._driver is not None:
            self._driver.terminate()
        with suppress(Exception):
            root.invalidate()
            root.close()

    @property
    def _open(self) -> AsyncConnection:
        assert self._connection is not None, "it was begun, and has not ended"
        return self._connection

    async def _lock(self, connection: AsyncConnection) -> bool:
        return bool(await connection.scalar(self._statements.lock, {"lock": self._request.lock}))

    async def _read(self, connection: AsyncConnection) -> Answer | Reply | None:
        request = self._request
        arguments = {"caller": request.caller, "key": request.key}
        row = (await connection.execute(self._statements.read, arguments)).one_or_none()
        if row is None:
            return None
        if row.fingerprint != request.fingerprint:
            return Answer.OTHER
        headers = ((name.encode("latin-1"), value.encode("latin-1")) for name, value in row.headers)
        return Reply(row.status, tuple(headers), row.body)

    async def _store(
        self, connection: AsyncConnection, reply: Reply, headers: list[list[str]]
    ) -> bool:
        request = self._request
        arguments = {
            "caller": request.caller,
            "key": request.key,
            "fingerprint": request.fingerprint,
            "status": reply.status,
            "headers": headers,
            "body": reply.body,
        }
        stored = await connection.execute(self._statements.store, arguments)
        return stored.first() is not None

    async def _commit(self, connection: AsyncConnection) -> End:
        self._may_commit = True
        try:
            async with asyncio.timeout(self._patience):
                await connection.commit()
        except Exception as error:
            if may_be_committed(error):
                self.discard()
                return End.UNKNOWN
            if is_passing(error):
                return End.NOTHING
            raise  # such as a deferred constraint: the application is to blame
        with suppress(Exception):
            async with asyncio.timeout(self._patience):
                await self._give_back(connection)
        return End.COMMITTED

    async def _give_back(self, connection: AsyncConnection) -> None:
        await connection.close()
        self._connection = None

    def _require_untouched(self, connection: AsyncConnection) -> None:
        root = connection.sync_connection
        if root is None or root.invalidated or self._driver.is_closed():
            return  # the next statement says it better
        if (
            root.closed
            or self._root_transaction is None
            or root.get_transaction() is not self._root_transaction
            or not self._root_transaction.is_active
            or not self._driver.is_in_transaction()
        ):
            raise TransactionMisusedError("the request ended the transaction that it was lent")

    def _before_commit(self, _connection: object) -> None:
        if not self._may_commit:
            raise TransactionMisusedError(
                "a request does not commit its transaction: that happens together with its "
                "reply (a session's commit is fine: it releases a savepoint)"
            )


def is_passing(error: BaseException) -> bool:
    """Whether *error* says nothing about the request: another try makes sense."""
    code = _sqlstate(error)
    if code is not None:
        return code.startswith(_PASSING)
    return _is_no_answer(error)


def may_be_committed(error: BaseException) -> bool:
    """Whether the COMMIT that raised *error* may have taken effect."""
    # Without a code it is not PostgreSQL that says so.
    return (_sqlstate(error) or "08").startswith(_UNKNOWN)


def _sqlstate(error: BaseException) -> str | None:
    # SQLAlchemy's error has the driver's as `orig`; while connecting, the driver's comes bare.
    code = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
    return code if isinstance(code, str) else None


def _is_no_answer(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error, OSError | TimeoutError | EOFError | PoolTimeoutError)

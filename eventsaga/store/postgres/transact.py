"""How do a step's own rows and its result become one commit? In a transaction of both.

A transactional step writes on a connection of ours. Its result is appended on the same
connection, by the same guarded statement as any other, and then one COMMIT decides over
both: a step that ran for a saga which another worker has taken leaves no row behind.

Only the answer to that COMMIT can leave anything open. Before it was sent, a broken
connection means that nothing was written. Afterwards the outcome is looked up, and first
waited for: the transaction holds the lock on the saga's row until it has ended, so whoever
gets that lock next knows that nothing is on its way any more.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final, Self
from uuid import UUID

import asyncpg
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    create_async_engine,
)

from eventsaga import failpoints
from eventsaga.errors import TransactionMisusedError
from eventsaga.observe.log import logger
from eventsaga.settings import Settings
from eventsaga.store.ports import Append, AppendResult, Committed, Fenced, RolledBack
from eventsaga.store.postgres import append as appending
from eventsaga.store.postgres.append import EncodedAppend, append_arguments, encode_append
from eventsaga.store.postgres.connect import (
    CONNECTION_ERRORS,
    Connection,
    causes,
    discard,
    is_infrastructure,
    open_connection,
    outcome_is_unknown,
    session_options,
    sqlalchemy_url,
    unavailable,
)
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.writer import jittered

# A worker that is paused here must not hold the user's rows, and later its saga's, for ever:
# the server ends the transaction. Local to it, so that the connection goes back as it came.
_BOUND: Final = "SELECT set_config('idle_in_transaction_session_timeout', $1::text, true)"

# Asked before the read back, in a statement of its own, whose end is the snapshot's begin.
SETTLE: Final = "SELECT FROM eventsaga.sagas WHERE saga_id = $1::uuid FOR SHARE"

# How long the append waits for the saga's row, which is held for the time of an append.
_PATIENCE: Final = "2s"

_UNREACHABLE: Final[tuple[type[Exception], ...]] = (SQLAlchemyError, *CONNECTION_ERRORS)

# What a step lets through when the database fails it; an error of its own, such as one that
# says what is permanent, stands above its cause.
_DATABASES: Final = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)

_log = logger("store")


def may_succeed(error: BaseException) -> bool:
    """Whether a statement that *error* ended may succeed if it is sent again as it is.

    True if the database was busy or away: a lost connection, a deadlock, a serialization
    failure, a lock timeout.
    """
    return any(
        isinstance(cause, PoolTimeoutError) or is_infrastructure(cause) for cause in causes(error)
    )


def _may_be_committed(error: BaseException) -> bool:
    driver = [cause for cause in causes(error) if isinstance(cause, CONNECTION_ERRORS)]
    # What is not the driver's is nobody's refusal.
    return not driver or any(outcome_is_unknown(cause) for cause in driver)


class Transactions:
    """Lends transactions for steps, at most `Settings.transactions` at once.

    Args:
        database: The user's engine, whose pool is used if its driver is asyncpg; from a
            URL, or for another driver, an engine is made when it is first needed.
        url: The same database, for connections of our own.
        settings: Number of connections, timeouts, schema.
    """

    def __init__(self, database: str | AsyncEngine, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.append_statement = qualify(appending.APPEND, settings.schema)
        self.read_back_statement = qualify(appending.READ_BACK, settings.schema)
        self.settle_statement = qualify(SETTLE, settings.schema)
        self._engine: AsyncEngine | None = None
        self._is_ours = True
        if isinstance(database, AsyncEngine) and database.dialect.driver == "asyncpg":
            self._engine, self._is_ours = database, False
        # Waiting here has no bound of its own, unlike waiting for SQLAlchemy's pool.
        self._slots = asyncio.Semaphore(settings.transactions)
        self._open: set[PostgresTransaction] = set()

    async def begin(self, timeout: timedelta) -> "PostgresTransaction":  # noqa: ASYNC109
        """Open a transaction, as soon as a connection is free.

        Args:
            timeout: The longest time that the step may take.

        Raises:
            DatabaseUnavailableError: If the database cannot be reached.
        """
        if failpoints.armed:
            await failpoints.reach("before_transaction")
        await self._slots.acquire()
        try:
            try:
                transaction = await self._begun(timeout)
            except _UNREACHABLE:
                # After a restart of the server every pooled connection is broken; the
                # first error makes the pool drop them, and nothing was done yet.
                transaction = await self._begun(timeout)
        except _UNREACHABLE as error:
            self._slots.release()
            raise unavailable(error, self.url) from error
        except BaseException:
            self._slots.release()
            raise
        self._open.add(transaction)
        return transaction

    async def _begun(self, allowed: timedelta) -> "PostgresTransaction":
        idle = max(allowed, self.settings.lease)
        async with asyncio.timeout(self.settings.statement_timeout.total_seconds()):
            return await PostgresTransaction.begun(self, self._connectable(), idle)

    def _connectable(self) -> AsyncEngine:
        if self._engine is None:
            self._engine = _new_engine(self.url, self.settings)
        return self._engine

    def ended(self, transaction: "PostgresTransaction") -> None:
        """Take the place of *transaction* back."""
        if transaction in self._open:
            self._open.discard(transaction)
            self._slots.release()

    async def close(self) -> None:
        """Break off what is still open, and close the connections that are ours."""
        for transaction in tuple(self._open):
            transaction.discard()
        if self._engine is not None and self._is_ours:
            await self._engine.dispose()
            self._engine = None


def _new_engine(url: str, settings: Settings) -> AsyncEngine:
    options = {"timeout": settings.statement_timeout.total_seconds(), **session_options(settings)}
    if settings.pooler:
        # The next transaction may be on another server connection: nothing is kept by name.
        options |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}
    return create_async_engine(
        sqlalchemy_url(url),
        pool_size=settings.transactions,
        max_overflow=0,
        hide_parameters=True,
        connect_args=options,
    )


class PostgresTransaction:
    """A transaction on a connection of its own; see `Transaction`.

    It is ended by `commit` or `rollback`. Until then the step may do on it what it likes,
    except to end it: `AsyncConnection.commit` raises `TransactionMisusedError`, and a
    transaction that was rolled back, or ended by SQL, is not committed.
    """

    def __init__(
        self, lender: Transactions, connection: AsyncConnection, driver: Connection
    ) -> None:
        self._lender = lender
        self._connection = connection
        self._driver = driver
        assert connection.sync_connection is not None
        self._root = connection.sync_connection
        self._root_transaction = self._root.get_transaction()
        self._patience = lender.settings.statement_timeout.total_seconds()
        self._session: AsyncSession | None = None
        self._may_commit = False
        self._is_open = True
        event.listen(self._root, "commit", self._before_commit)

    @classmethod
    async def begun(cls, lender: Transactions, engine: AsyncEngine, idle: timedelta) -> Self:
        """Take a connection of *engine* and begin on it; the server ends what is *idle*."""
        connection = await engine.connect()
        driver: Connection | None = None
        try:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            await connection.execution_options(isolation_level="READ COMMITTED")
            await connection.begin()
            await connection.exec_driver_sql(_BOUND, (_milliseconds(idle),))
            return cls(lender, connection, driver)
        except BaseException:
            _break(connection, driver)
            raise

    @property
    def connection(self) -> AsyncConnection:
        """The connection; the transaction is open, READ COMMITTED."""
        return self._connection

    @property
    def session(self) -> AsyncSession:
        """A session on the connection, the same one each time.

        It works inside a savepoint: its ``commit`` releases it and its ``rollback`` goes
        back to it, and both leave the transaction open, so that code which ends its own
        units of work can be used as it is. Objects stay usable after a commit.
        """
        if self._session is None:
            self._session = AsyncSession(
                self._connection,
                expire_on_commit=False,
                join_transaction_mode="create_savepoint",
            )
        return self._session

    def may_succeed(self, error: BaseException) -> bool:
        """Whether *error*, which the step raised, is the database's and none of its own."""
        return isinstance(error, _DATABASES) and may_succeed(error)

    async def commit(self, append: Append, worker_id: UUID) -> AppendResult | RolledBack:
        """Append and commit; ``append.done`` is not called.

        If it is cancelled, the connection is closed, and the outcome is open: it is in the
        saga's history.

        Returns:
            `Committed`, or `Fenced` or `RolledBack`, and then nothing was written. Never
            `Refused`.
        """
        encoded = encode_append(append)
        try:
            refusal = await self._append(encoded, worker_id)
            if refusal is not None:
                await self.rollback()
                return refusal
            error = await self._commit()
            if error is None:
                return Committed(encoded.saga.last_hash)
            if not _may_be_committed(error):
                await self.rollback()
                return self._rolled_back(error)
            self.discard()
            return await self._settle(encoded, worker_id, error)
        finally:
            # Whatever did not end in good order ends with its connection.
            self.discard()

    async def rollback(self) -> None:
        """Undo everything, and give the connection back. Called again, does nothing."""
        try:
            if self._is_open and not self._is_broken():
                await self._give_back(undo=True)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the connection at once, unless it was given back: the server undoes the rest."""
        if self._is_open:
            self._end()
            _break(self._connection, self._driver)

    async def _append(self, encoded: EncodedAppend, worker_id: UUID) -> Fenced | RolledBack | None:
        """Write what the session holds and the events; None if they can be committed."""
        arguments = append_arguments([encoded], worker_id, _PATIENCE)
        statement = self._lender.append_statement
        try:
            async with asyncio.timeout(self._patience):
                self._require_untouched()
                if self._session is not None:
                    await self._session.commit()
                # From here on it holds the saga's row, and whoever takes over waits for it.
                lease = _milliseconds(self._lender.settings.lease)
                await self._connection.exec_driver_sql(_BOUND, (lease,))
                rows = await self._connection.exec_driver_sql(statement, tuple(arguments))
                return None if rows.all() else Fenced()
        except Exception as error:  # noqa: BLE001 - COMMIT was not sent: it is a rollback
            return self._rolled_back(error)

    async def _commit(self) -> Exception | None:
        """Send COMMIT, and return what came back instead of its answer."""
        self._may_commit = True
        try:
            async with asyncio.timeout(self._patience):
                sent = self._connection.commit()
                if failpoints.armed:
                    cut = self._driver.terminate
                    sent = failpoints.around(sent, "transaction_commit", text="", cut=cut)
                await sent
        except Exception as error:  # noqa: BLE001 - sorted by the caller
            return error
        await self._give_back(undo=False)
        return None

    async def _settle(
        self, encoded: EncodedAppend, worker_id: UUID, error: Exception
    ) -> AppendResult | RolledBack:
        """Find out what became of a COMMIT that was not answered, however long it takes.

        The transaction locked the saga's row when it appended and keeps the lock until it
        has ended, which a dead client's does at once and a silent one's after the lease.
        So the row is locked before it is read: after that, nothing is on its way, and a
        saga that still stands where it stood was not moved by us. Then the attempt may be
        repeated. Should the first COMMIT survive nevertheless (in a primary that was not
        told of its failover), the guard decides: both have appended to the same sequence
        number, the later UPDATE waits for the earlier one and takes no row if that has
        committed. One of the two commits, and the user's rows of the other one go with it.
        """
        lender, connection, pauses = self._lender, None, 0
        try:
            while True:
                try:
                    connection = connection or await open_connection(lender.url, lender.settings)
                    await connection.fetch(lender.settle_statement, encoded.saga_id)
                    stored, still_open = await appending.read_back(
                        connection, lender.read_back_statement, [encoded], worker_id
                    )
                    break
                except Exception as failure:  # noqa: BLE001 - no saga is to blame for it
                    # On another connection: this one may lead to what is a standby by now.
                    await discard(connection)
                    connection, pauses = None, pauses + 1
                    _log.warning("commit_outcome_not_known", error=repr(failure))
                    await asyncio.sleep(jittered(pauses))
        finally:
            await discard(connection)
        if stored:
            return Committed(encoded.saga.last_hash)
        return RolledBack(error=error, may_succeed=True) if still_open else Fenced()

    async def _give_back(self, *, undo: bool) -> None:
        """Return a connection on which nothing is open to the pool, or else do nothing."""
        with suppress(Exception):
            async with asyncio.timeout(self._patience):
                if undo:
                    await self._connection.rollback()
                if self._session is not None:
                    await self._session.close()
                if not self._driver.is_in_transaction():
                    await self._connection.close()
                    self._end()

    def _end(self) -> None:
        self._is_open = False
        self._lender.ended(self)

    def _rolled_back(self, error: Exception) -> RolledBack:
        return RolledBack(error=error, may_succeed=self._is_broken() or may_succeed(error))

    def _is_broken(self) -> bool:
        return self._root.invalidated or self._driver.is_closed()

    def _require_untouched(self) -> None:
        if self._is_broken():
            return  # the next statement says it better
        transaction = self._root.get_transaction()
        if (
            self._root.closed
            or transaction is None
            or transaction is not self._root_transaction
            or not transaction.is_active
            or not self._driver.is_in_transaction()
        ):
            raise TransactionMisusedError("the step ended the transaction that it was lent")

    def _before_commit(self, _connection: SyncConnection) -> None:
        if not self._may_commit:
            raise TransactionMisusedError(
                "a step does not commit its transaction: that happens together with its "
                "result (a session's commit is fine: it releases a savepoint)"
            )


def _milliseconds(duration: timedelta) -> str:
    return str(int(duration.total_seconds() * 1000))


def _break(connection: AsyncConnection, driver: Connection | None) -> None:
    """Close *connection* without waiting for anything, so that a cancelled task can do it."""
    root = connection.sync_connection
    if root is None or root.closed:
        return  # it is the pool's again
    if driver is not None:
        driver.terminate()
    with suppress(Exception):
        root.invalidate()
        root.close()

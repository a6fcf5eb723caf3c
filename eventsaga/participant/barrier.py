"""May it still be done, and is there something to undo? One row knows, and its lock decides.

A request that timed out may still be under way when its undo is sent. So an undo may come
before what it undoes (there is nothing to undo, and what comes later must be refused), and
both may come twice. Every saga protocol meets these three: the empty compensation, the
suspended request, and the repetition.

There is one row for what is done and undone, by ``(group, step)``. Both directions begin with
the same statement, ``INSERT … ON CONFLICT DO UPDATE``, which creates the row or locks it and
returns what it holds. The lock is kept until the transaction ends. Hence, for a do D and an
undo U on two connections (READ COMMITTED):

=============================  ==========================================================
D locks, U comes               U waits for D's transaction, whether D created the row or
                               found it.
… D commits                    U reads ``done`` and undoes it.
… D rolls back                 U creates the row itself and has nothing to undo.
U locks, D comes               D waits for U's transaction.
… U commits                    D reads ``undone``: `TooLateError`, nothing is done.
… U rolls back                 D creates the row itself and does it.
D1 locks, D2 (the same) comes  D2 waits; if D1 commits it is a repetition, else D2 does it.
U1 locks, U2 (the same) comes  U2 waits; if U1 commits it is a repetition, else U2 undoes.
a process dies in D or U       The server rolls back, which is one of the rows above.
=============================  ==========================================================

Nobody reads before it has the lock, so there is no fifth case. Under REPEATABLE READ and
SERIALIZABLE whoever waited gets a serialization failure (40001) instead of what the row says:
nothing is done, and the request may come again.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

from sqlalchemy import Executable, Integer, bindparam, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from eventsaga.participant.branch import Branch, Operation
from eventsaga.participant.errors import TooLateError
from eventsaga.participant.tables import ParticipantTables, tables_in

TABLES: Final = "eventsaga.participant.tables"
"""Under this name the `AsyncSession.info` of the middleware's session holds the tables."""


class Turn(StrEnum):
    """What a request finds.

    `FIRST`: it has not been here; act.
    `REPEATED`: it was here and did its work.
    `NOTHING`: an undo came before what it undoes, which is refused from now on.
    """

    FIRST = "first"
    REPEATED = "repeated"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Gate:
    """What the barrier says.

    Attributes:
        branch: The request.
        turn: What it found.
    """

    branch: Branch
    turn: Turn

    @property
    def act(self) -> bool:
        """Whether to do, or undo, it now."""
        return self.turn is Turn.FIRST


@asynccontextmanager
async def barrier(
    session: AsyncSession | AsyncConnection,
    key: str | None = None,
    *,
    group: str | None = None,
    step: str | None = None,
    operation: Operation | None = None,
    part: int = 1,
    schema: str | None = None,
) -> AsyncGenerator[Gate]:
    """Tell whether to act, and record it in the same transaction.

    Either give the idempotency *key* that eventsaga sent, from which everything follows, or
    *group*, *step* and *operation*::

        async with barrier(session, key) as gate:
            if gate.act:
                ...

    The block runs in a savepoint: an exception that leaves it takes back what the block wrote
    and what the barrier recorded, also if it is caught further out. Nothing is committed here.

    Args:
        session: A session or connection on PostgreSQL; its transaction holds the row's lock
            until it ends.
        key: ``<saga id>/<step>``, with ``/compensate`` behind it for an undo and ``#<number>``
            for the second and later requests of a step.
        group: What belongs together, such as a saga's or an order's id.
        step: Which part of the group, the same for do and undo.
        operation: ``"do"`` or ``"undo"``.
        part: Which request of the step, if it needs several. Each is done once; the first
            undo, of whatever part, refuses all that were not yet done.
        schema: Schema of the tables. None for the one that the middleware was given, else for
            the search path.

    Raises:
        TooLateError: In front of the block: it was undone before it was to be done.
        BadKeyError: If eventsaga did not make *key*.
        TypeError: If neither or both are given.
    """
    if key is None and group is not None and step is not None and operation is not None:
        branch = Branch(group, step, operation, part)
    elif key is not None and group is None and step is None and operation is None:
        branch = Branch.of_key(key)
    else:
        raise TypeError("give the barrier either a key, or group, step and operation")
    tables = _tables_of(session, schema)
    async with session.begin_nested():
        yield Gate(branch, await _pass(session, tables, branch))


async def _pass(
    session: AsyncSession | AsyncConnection, tables: ParticipantTables, branch: Branch
) -> Turn:
    done, undone = await _lock(session, tables, branch)
    if branch.operation == "do":
        if undone:
            raise TooLateError(branch.group, branch.step)
        if branch.part in done:
            return Turn.REPEATED
        await _add(session, tables, branch, "done")
        return Turn.FIRST
    if branch.part in undone:
        return Turn.REPEATED
    await _add(session, tables, branch, "undone")
    return Turn.FIRST if done else Turn.NOTHING


async def _lock(
    session: AsyncSession | AsyncConnection, tables: ParticipantTables, branch: Branch
) -> tuple[list[int], list[int]]:
    """Create the row or wait for it; return which parts were done and undone."""
    arguments = {"group_id": branch.group, "step": branch.step}
    row = (await session.execute(_locking(tables), arguments)).one()
    return row.done, row.undone


@cache
def _locking(tables: ParticipantTables) -> Executable:
    columns = tables.barriers.c
    empty = insert(tables.barriers).values(
        group_id=bindparam("group_id"), step=bindparam("step"), done=[], undone=[]
    )
    # DO NOTHING would neither lock the row nor return it.
    return empty.on_conflict_do_update(
        index_elements=[columns.group_id, columns.step],
        set_={"touched_at": func.clock_timestamp()},
    ).returning(columns.done, columns.undone)


@cache
def _adding(tables: ParticipantTables, column: str) -> Executable:
    columns = tables.barriers.c
    return (
        update(tables.barriers)
        .where(columns.group_id == bindparam("of_group"), columns.step == bindparam("of_step"))
        .values({column: func.array_append(columns[column], bindparam("part", type_=Integer))})
    )


async def _add(
    session: AsyncSession | AsyncConnection,
    tables: ParticipantTables,
    branch: Branch,
    column: str,
) -> None:
    arguments = {"of_group": branch.group, "of_step": branch.step, "part": branch.part}
    await session.execute(_adding(tables, column), arguments)


def _tables_of(session: AsyncSession | AsyncConnection, schema: str | None) -> ParticipantTables:
    if schema is None:
        found = session.info.get(TABLES)
        if isinstance(found, ParticipantTables):
            return found
    return tables_in(schema)

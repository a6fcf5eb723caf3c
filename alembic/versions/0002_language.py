"""Waits, children, limits and schedules: what the language of sagas needs of the tables.

Workers of the revision before may go on meanwhile: every column that is new has a default.

Revision ID: 0002
Revises: 0001
"""

from alembic import context, op

from eventsaga.store.postgres.sql import qualify

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UPGRADE = (
    "ALTER TABLE eventsaga.inbox ADD COLUMN answered_at timestamptz, ADD COLUMN refused text",
    (
        "COMMENT ON COLUMN eventsaga.inbox.answered_at"
        " IS 'when the saga took it, or refused it; null while open'"
    ),
    "COMMENT ON COLUMN eventsaga.inbox.refused IS 'why the saga did not take it; null if it did'",
    # An answer stays for an hour; whoever looks for what is open must not read them all.
    "CREATE INDEX inbox_open ON eventsaga.inbox (saga_id) WHERE answered_at IS NULL",
    ("CREATE INDEX inbox_answered ON eventsaga.inbox (answered_at) WHERE answered_at IS NOT NULL"),
    "ALTER TABLE eventsaga.workers ADD COLUMN process text",
    (
        "COMMENT ON COLUMN eventsaga.workers.process"
        " IS 'tells the process from all others; null where that is not known'"
    ),
    "ALTER TABLE eventsaga.sagas ADD COLUMN parent_id uuid, ADD COLUMN parent_step text",
    "COMMENT ON COLUMN eventsaga.sagas.parent_id IS 'the saga of which this is a step'",
    "CREATE INDEX sagas_children ON eventsaga.sagas (parent_id) WHERE parent_id IS NOT NULL",
    # By name first: a claim takes a share of every name, so a flood of one starves no other.
    "DROP INDEX eventsaga.sagas_due",
    (
        "CREATE INDEX sagas_due ON eventsaga.sagas (name, wake_at)"
        " WHERE owner IS NULL AND wake_at IS NOT NULL"
    ),
    # The few that are not over, among the many that are.
    (
        "CREATE INDEX sagas_unfinished ON eventsaga.sagas (status, saga_id)"
        " WHERE status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')"
    ),
    """
    CREATE TABLE eventsaga.limits (
        key     text        NOT NULL CONSTRAINT limits_pkey PRIMARY KEY,
        free_at timestamptz NOT NULL DEFAULT '-infinity'
    ) WITH (fillfactor = 60)
    """,
    "COMMENT ON TABLE eventsaga.limits IS 'when a limited step may be tried again'",
    """
    CREATE TABLE eventsaga.permits (
        key       text    NOT NULL,
        worker_id uuid    NOT NULL,
        held      integer NOT NULL,
        CONSTRAINT permits_pkey PRIMARY KEY (key, worker_id)
    ) WITH (fillfactor = 60)
    """,
    "COMMENT ON TABLE eventsaga.permits IS 'how many attempts of a limited step a worker runs'",
    """
    CREATE TABLE eventsaga.schedules (
        name      text        NOT NULL CONSTRAINT schedules_pkey PRIMARY KEY,
        saga_name text        NOT NULL,
        cron      text        NOT NULL,
        timezone  text        NOT NULL,
        next_at   timestamptz NOT NULL,
        worker_id uuid        NOT NULL
    )
    """,
    "COMMENT ON TABLE eventsaga.schedules IS 'which slot of a schedule is started next'",
    "COMMENT ON COLUMN eventsaga.schedules.worker_id IS 'who planned it last'",
)

_DOWNGRADE = (
    "DROP TABLE eventsaga.schedules, eventsaga.permits, eventsaga.limits",
    "DROP INDEX eventsaga.sagas_due",
    (
        "CREATE INDEX sagas_due ON eventsaga.sagas (wake_at)"
        " WHERE owner IS NULL AND wake_at IS NOT NULL"
    ),
    "DROP INDEX eventsaga.sagas_unfinished",
    "DROP INDEX eventsaga.sagas_children",
    "ALTER TABLE eventsaga.workers DROP COLUMN process",
    "ALTER TABLE eventsaga.sagas DROP COLUMN parent_id, DROP COLUMN parent_step",
    # What was answered is over; to the version before, every row is a request.
    "DELETE FROM eventsaga.inbox WHERE answered_at IS NOT NULL",
    "ALTER TABLE eventsaga.inbox DROP COLUMN refused, DROP COLUMN answered_at",
)


def upgrade() -> None:
    _execute(_UPGRADE)


def downgrade() -> None:
    _execute(_DOWNGRADE)


def _execute(statements: tuple[str, ...]) -> None:
    schema = context.get_context().opts["schema"]
    for statement in statements:
        op.execute(qualify(statement, schema))

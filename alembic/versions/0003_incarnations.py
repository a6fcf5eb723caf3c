"""Incarnations: which history of the database is this? Known by system and timeline.

Revision ID: 0003
Revises: 0002
"""

from alembic import context, op

from eventsaga.store.postgres.sql import qualify

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UPGRADE = (
    """
    CREATE TABLE eventsaga.incarnations (
        system_identifier bigint      NOT NULL,
        timeline          integer     NOT NULL,
        seen_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
        accepted_at       timestamptz,
        accepted_by       text,
        reason            text,
        CONSTRAINT incarnations_pkey PRIMARY KEY (system_identifier, timeline)
    )
    """,
    (
        "COMMENT ON TABLE eventsaga.incarnations"
        " IS 'every history that the database has had: it may have lost commits in between'"
    ),
    "COMMENT ON COLUMN eventsaga.incarnations.accepted_at IS 'null: what was under way is held'",
    # The file being written tells the timeline at once, the control file only after a checkpoint.
    """
    CREATE FUNCTION eventsaga.incarnation(OUT system_identifier bigint, OUT timeline integer)
    LANGUAGE sql STABLE AS $$
    SELECT system_identifier,
           ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
      FROM pg_control_system()
    $$
    """,
    """
    CREATE FUNCTION eventsaga.held_before() RETURNS timestamptz
    LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN i.seen_at IS NULL THEN 'infinity'
                WHEN i.accepted_at IS NULL THEN i.seen_at
                ELSE '-infinity' END
      FROM eventsaga.incarnation() here
      LEFT JOIN eventsaga.incarnations i USING (system_identifier, timeline)
    $$
    """,
    "COMMENT ON FUNCTION eventsaga.incarnation() IS 'which history of the database this is'",
    (
        "COMMENT ON FUNCTION eventsaga.held_before()"
        " IS 'sagas that go forward and are older wait until somebody accepts the incarnation'"
    ),
    # The one in which the tables were made has lost nothing.
    """
    INSERT INTO eventsaga.incarnations (system_identifier, timeline, accepted_at, accepted_by)
    SELECT system_identifier, timeline, clock_timestamp(), 'eventsaga db upgrade'
      FROM eventsaga.incarnation()
    """,
)

_DOWNGRADE = (
    "DROP FUNCTION eventsaga.held_before()",
    "DROP FUNCTION eventsaga.incarnation()",
    "DROP TABLE eventsaga.incarnations",
)


def upgrade() -> None:
    _execute(_UPGRADE)


def downgrade() -> None:
    _execute(_DOWNGRADE)


def _execute(statements: tuple[str, ...]) -> None:
    schema = context.get_context().opts["schema"]
    for statement in statements:
        op.execute(qualify(statement, schema))

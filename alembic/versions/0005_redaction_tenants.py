"""Redaction: an event may lose a value, if it keeps what its hash was made of; and tenants.

Revision ID: 0005
Revises: 0004
"""

from alembic import context, op

from eventsaga.store.postgres.sql import qualify

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UPGRADE = (
    "ALTER TABLE eventsaga.events ADD COLUMN digest bytea",
    (
        "COMMENT ON COLUMN eventsaga.events.digest"
        " IS 'of salt and data as they were hashed; set where the data was redacted since'"
    ),
    "ALTER TABLE eventsaga.sagas ADD COLUMN tenant text",
    "COMMENT ON COLUMN eventsaga.sagas.tenant IS 'whose it is; null for nobody in particular'",
    ("COMMENT ON COLUMN eventsaga.start_keys.key IS 'behind its tenant and U+001F, if it has one'"),
    # Even who may write whatever they like can by this way take away only, and leave a trace.
    """
    CREATE OR REPLACE FUNCTION eventsaga.refuse_change() RETURNS trigger
    LANGUAGE plpgsql AS $body$
    BEGIN
        IF TG_OP = 'UPDATE' THEN
            IF current_setting('eventsaga' || '.redacting', true) = old.saga_id::text
               AND (new.saga_id, new.seq, new.type, new.schema_version, new.occurred_at,
                    new.recorded_at, new.worker_id, new.txid, new.hash)
                   IS NOT DISTINCT FROM
                   (old.saga_id, old.seq, old.type, old.schema_version, old.occurred_at,
                    old.recorded_at, old.worker_id, old.txid, old.hash)
               AND new.salt IS NULL
               AND new.digest = coalesce(old.digest, eventsaga.digest(old.salt, old.data::text))
            THEN
                RETURN new;
            END IF;
        END IF;
        RAISE EXCEPTION 'events are append-only: % refused', TG_OP
            USING ERRCODE = 'restrict_violation',
                  HINT = 'A saga is corrected by further events.';
    END
    $body$
    """,
)

_DOWNGRADE = (
    """
    CREATE OR REPLACE FUNCTION eventsaga.refuse_change() RETURNS trigger
    LANGUAGE plpgsql AS $body$
    BEGIN
        RAISE EXCEPTION 'events are append-only: % refused', TG_OP
            USING ERRCODE = 'restrict_violation',
                  HINT = 'A saga is corrected by further events.';
    END
    $body$
    """,
    # What `eventsaga grants` has put there.
    "DROP POLICY IF EXISTS tenants ON eventsaga.sagas",
    "DROP POLICY IF EXISTS workers ON eventsaga.sagas",
    "DROP POLICY IF EXISTS tenants ON eventsaga.events",
    "DROP POLICY IF EXISTS workers ON eventsaga.events",
    "ALTER TABLE eventsaga.sagas DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
    "ALTER TABLE eventsaga.events DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
    "COMMENT ON COLUMN eventsaga.start_keys.key IS NULL",
    "ALTER TABLE eventsaga.sagas DROP COLUMN tenant",
    "ALTER TABLE eventsaga.events DROP COLUMN digest",
)


def upgrade() -> None:
    _execute(_UPGRADE)


def downgrade() -> None:
    _execute(_DOWNGRADE)


def _execute(statements: tuple[str, ...]) -> None:
    schema = context.get_context().opts["schema"]
    for statement in statements:
        op.execute(qualify(statement, schema))

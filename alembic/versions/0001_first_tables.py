"""First tables: events, their projection, leases, keys and inbox.

Revision ID: 0001
Revises:
"""

from alembic import context, op

from eventsaga.store.postgres.sql import qualify

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_UPGRADE = (
    """
    CREATE TABLE eventsaga.events (
        saga_id        uuid        NOT NULL,
        seq            integer     NOT NULL CONSTRAINT events_seq_check CHECK (seq > 0),
        type           text        NOT NULL,
        schema_version smallint    NOT NULL,
        data           json,
        occurred_at    timestamptz NOT NULL,
        recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
        worker_id      uuid,
        txid           xid8        NOT NULL DEFAULT pg_current_xact_id(),
        salt           bytea,
        hash           bytea       NOT NULL,
        CONSTRAINT events_pkey PRIMARY KEY (saga_id, seq)
    )
    """,
    # Rows are never updated, so vacuum would look at the table only to prevent wraparound.
    "ALTER TABLE eventsaga.events SET (autovacuum_vacuum_insert_scale_factor = 0.05)",
    "COMMENT ON TABLE eventsaga.events IS 'append-only: what happened to every saga, in order'",
    "COMMENT ON COLUMN eventsaga.events.data IS 'kept as the text that was hashed'",
    """
    CREATE TABLE eventsaga.sagas (
        saga_id        uuid        NOT NULL CONSTRAINT sagas_pkey PRIMARY KEY,
        name           text        NOT NULL,
        version        integer     NOT NULL,
        fingerprint    text        NOT NULL,
        status         text        NOT NULL,
        current_steps  text[]      NOT NULL,
        context        json        NOT NULL,
        error          json,
        correlation_id text        NOT NULL,
        last_seq       integer     NOT NULL,
        last_hash      bytea       NOT NULL,
        created_at     timestamptz NOT NULL,
        updated_at     timestamptz NOT NULL,
        owner          uuid,
        wake_at        timestamptz,
        claims         integer     NOT NULL DEFAULT 0
    )
    -- Room for the next versions of a row in its own page keeps updates off the indexes.
    WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05)
    """,
    (
        "COMMENT ON TABLE eventsaga.sagas"
        " IS 'projection of events, one row a saga, and who may append'"
    ),
    "COMMENT ON COLUMN eventsaga.sagas.context IS 'as of the last change of status'",
    "COMMENT ON COLUMN eventsaga.sagas.owner IS 'worker that may append'",
    "COMMENT ON COLUMN eventsaga.sagas.wake_at IS 'when an unowned saga is due'",
    (
        "CREATE INDEX sagas_due ON eventsaga.sagas (wake_at)"
        " WHERE owner IS NULL AND wake_at IS NOT NULL"
    ),
    "CREATE INDEX sagas_owned ON eventsaga.sagas (owner) WHERE owner IS NOT NULL",
    """
    CREATE TABLE eventsaga.workers (
        worker_id    uuid        NOT NULL CONSTRAINT workers_pkey PRIMARY KEY,
        host         text        NOT NULL,
        pid          integer     NOT NULL,
        definitions  text[]      NOT NULL,
        started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        lease_until  timestamptz NOT NULL
    ) WITH (fillfactor = 60)
    """,
    (
        "COMMENT ON TABLE eventsaga.workers"
        " IS 'one row per boot of a worker; its lease covers all sagas that it owns'"
    ),
    """
    CREATE TABLE eventsaga.definitions (
        name          text        NOT NULL,
        version       integer     NOT NULL,
        fingerprint   text        NOT NULL,
        graph         json        NOT NULL,
        first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT definitions_pkey PRIMARY KEY (name, version, fingerprint)
    )
    """,
    "COMMENT ON TABLE eventsaga.definitions IS 'every shape of a saga that a worker has brought'",
    """
    CREATE TABLE eventsaga.start_keys (
        saga_name    text  NOT NULL,
        key          text  NOT NULL,
        saga_id      uuid  NOT NULL,
        input_digest bytea NOT NULL,
        CONSTRAINT start_keys_pkey PRIMARY KEY (saga_name, key)
    )
    """,
    "COMMENT ON TABLE eventsaga.start_keys IS 'which saga a start key stands for'",
    """
    CREATE TABLE eventsaga.inbox (
        saga_id    uuid        NOT NULL,
        id         uuid        NOT NULL,
        kind       text        NOT NULL,
        data       json        NOT NULL,
        actor      text        NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT inbox_pkey PRIMARY KEY (saga_id, id)
    )
    """,
    (
        "COMMENT ON TABLE eventsaga.inbox"
        " IS 'what others ask of a saga; its owner turns it into events'"
    ),
    """
    CREATE FUNCTION eventsaga.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        RAISE EXCEPTION 'events are append-only: % refused', TG_OP
            USING ERRCODE = 'restrict_violation',
                  HINT = 'A saga is corrected by further events.';
    END
    $body$
    """,
    # ALWAYS: session_replication_role = replica would silence an ordinary trigger.
    (
        "CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON eventsaga.events"
        " FOR EACH ROW EXECUTE FUNCTION eventsaga.refuse_change()"
    ),
    "ALTER TABLE eventsaga.events ENABLE ALWAYS TRIGGER events_append_only",
    (
        "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON eventsaga.events"
        " FOR EACH STATEMENT EXECUTE FUNCTION eventsaga.refuse_change()"
    ),
    "ALTER TABLE eventsaga.events ENABLE ALWAYS TRIGGER events_no_truncate",
)

_DOWNGRADE = (
    (
        "DROP TABLE eventsaga.events, eventsaga.sagas, eventsaga.workers, eventsaga.definitions,"
        " eventsaga.start_keys, eventsaga.inbox"
    ),
    "DROP FUNCTION eventsaga.refuse_change()",
)


def upgrade() -> None:
    _execute(_UPGRADE)


def downgrade() -> None:
    _execute(_DOWNGRADE)


def _execute(statements: tuple[str, ...]) -> None:
    schema = context.get_context().opts["schema"]
    for statement in statements:
        op.execute(qualify(statement, schema))

"""The feed, by which events are read in order, and the archive, to which sagas that ended go.

Revision ID: 0006
Revises: 0005
"""

from alembic import context, op

from eventsaga.store.postgres.sql import qualify

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_FEED = (
    """
    CREATE TABLE eventsaga.feeds (
        consumer   text        NOT NULL CONSTRAINT feeds_pkey PRIMARY KEY,
        txid       xid8        NOT NULL DEFAULT '0',
        saga_id    uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
        seq        integer     NOT NULL DEFAULT 0,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        holder     uuid,
        held_until timestamptz
    ) WITH (fillfactor = 60)
    """,
    "COMMENT ON TABLE eventsaga.feeds IS 'how far each consumer of the feed has read'",
    (
        "COMMENT ON COLUMN eventsaga.feeds.txid"
        " IS 'of the last event that it has read, as are saga_id and seq'"
    ),
    "COMMENT ON COLUMN eventsaga.feeds.holder IS 'who reads for it now'",
    # All three columns: many events may have one transaction, and no page sorts them anew.
    "CREATE INDEX events_feed ON eventsaga.events (txid, saga_id, seq)",
    "ALTER TABLE eventsaga.incarnations ADD COLUMN numbered_at timestamptz",
    (
        "COMMENT ON COLUMN eventsaga.incarnations.numbered_at"
        " IS 'since when txid of all events is in the order of this system'"
    ),
)

# As the revision before has left it.
_REFUSE_CHANGE = """
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
    """

# The path of whoever fires it must not say what "=" means.
_REFUSE_CHANGE_BUT = """
    CREATE OR REPLACE FUNCTION eventsaga.refuse_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $body$
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
        -- The owner, and so the functions that are the owner's: whatever else was granted, or
        -- set, counts for nothing. Each also asks for what only those functions bring about.
        IF TG_OP = 'UPDATE' AND current_user = (SELECT pg_get_userbyid(c.relowner)
                                                  FROM pg_class c WHERE c.oid = TG_RELID) THEN
            OLD.txid := NEW.txid;
            IF OLD *= NEW AND NOT eventsaga.is_numbered() THEN
                RETURN NEW;
            END IF;
        ELSIF TG_OP = 'DELETE' AND current_user = (SELECT pg_get_userbyid(c.relowner)
                                                     FROM pg_class c WHERE c.oid = TG_RELID) THEN
            IF EXISTS (SELECT FROM eventsaga.archived_sagas a
                        WHERE a.saga_id = OLD.saga_id AND a.txid = pg_current_xact_id()) THEN
                RETURN OLD;
            END IF;
        END IF;
        RAISE EXCEPTION 'events are append-only: % refused', TG_OP
            USING ERRCODE = 'restrict_violation',
                  HINT = 'A saga is corrected by further events.';
    END
    $body$
    """

_NUMBERING = (
    """
    CREATE FUNCTION eventsaga.is_numbered() RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM eventsaga.incarnations i
                     JOIN eventsaga.incarnation() here USING (system_identifier)
                    WHERE i.numbered_at IS NOT NULL)
    $$
    """,
    _REFUSE_CHANGE_BUT,
    # Transaction ids of another system mean nothing here: they may lie ahead of ours, and ours
    # behind what consumers have read. So every event gets the number of those who have not read
    # it yet, which is lower than any transaction's, and consumers go on where they were. What
    # may have been written here already, by its id and its time, counts as read by nobody.
    """
    CREATE FUNCTION eventsaga.renumber_events() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    DECLARE
        ours      bigint;
        born      timestamptz;
        next      xid8;
        first     xid8;
        consumers bigint;
        changed   bigint := 0;
    BEGIN
        -- Appends wait, and so do two who do this at once.
        LOCK TABLE eventsaga.events, eventsaga.feeds IN SHARE ROW EXCLUSIVE MODE;
        IF eventsaga.is_numbered() THEN
            RETURN 0;
        END IF;
        SELECT i.system_identifier INTO ours FROM eventsaga.incarnation() i;
        -- An identifier begins with the second in which its system was made. A day is for clocks.
        born := to_timestamp((ours >> 32) & 4294967295) - interval '1 day';
        next := pg_snapshot_xmax(pg_current_snapshot());
        SELECT count(*) INTO consumers FROM eventsaga.feeds;
        SELECT e.txid INTO first FROM eventsaga.events e
         WHERE e.recorded_at >= born ORDER BY e.txid LIMIT 1;
        IF EXISTS (SELECT FROM eventsaga.events e WHERE e.txid >= next)
           OR EXISTS (SELECT FROM eventsaga.events e
                       WHERE e.txid >= first AND e.recorded_at < born) THEN
            UPDATE eventsaga.events e
               SET txid = p.place::text::xid8
              FROM (SELECT r.saga_id, r.seq,
                           max(CASE WHEN r.txid < next AND r.recorded_at >= born THEN consumers
                                    ELSE (SELECT count(*) FROM eventsaga.feeds f
                                           WHERE (f.txid, f.saga_id, f.seq)
                                               < (r.txid, r.saga_id, r.seq))
                               END) OVER (PARTITION BY r.saga_id ORDER BY r.seq) AS place
                      FROM eventsaga.events r) p
             WHERE e.saga_id = p.saga_id AND e.seq = p.seq;
            GET DIAGNOSTICS changed = ROW_COUNT;
            UPDATE eventsaga.feeds f
               SET txid = (p.place - 1)::text::xid8,
                   saga_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff',
                   seq = 2147483647
              FROM (SELECT r.consumer,
                           row_number() OVER (ORDER BY r.txid, r.saga_id, r.seq) AS place
                      FROM eventsaga.feeds r) p
             WHERE f.consumer = p.consumer;
        END IF;
        INSERT INTO eventsaga.incarnations (system_identifier, timeline, numbered_at)
        SELECT i.system_identifier, i.timeline, clock_timestamp() FROM eventsaga.incarnation() i
        ON CONFLICT (system_identifier, timeline) DO UPDATE SET numbered_at = clock_timestamp();
        RETURN changed;
    END
    $body$
    """,
    "REVOKE ALL ON FUNCTION eventsaga.renumber_events() FROM PUBLIC",
    (
        "COMMENT ON FUNCTION eventsaga.is_numbered()"
        " IS 'whether txid of all events is in the order of this system'"
    ),
    (
        "COMMENT ON FUNCTION eventsaga.renumber_events()"
        " IS 'bring txid of all events into the order of this system, after a restore'"
    ),
    "SELECT eventsaga.renumber_events()",
)

# Whoever may call it has to know the heads, and leaves them behind. It is one statement after
# another, each with a snapshot of its own: what was decided before the lock is looked at again.
_ARCHIVE = (
    """
    CREATE TABLE eventsaga.archived_sagas (
        saga_id     uuid        NOT NULL CONSTRAINT archived_sagas_pkey PRIMARY KEY,
        last_seq    integer     NOT NULL,
        last_hash   bytea       NOT NULL,
        archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        txid        xid8        NOT NULL DEFAULT pg_current_xact_id()
    )
    """,
    (
        "COMMENT ON TABLE eventsaga.archived_sagas"
        " IS 'which sagas were moved to an archive, and how their chains end'"
    ),
    """
    CREATE TABLE eventsaga.archived_events (
        saga_id        uuid        NOT NULL,
        seq            integer     NOT NULL,
        type           text        NOT NULL,
        schema_version smallint    NOT NULL,
        data           json,
        occurred_at    timestamptz NOT NULL,
        recorded_at    timestamptz NOT NULL,
        worker_id      uuid,
        salt           bytea,
        hash           bytea       NOT NULL,
        digest         bytea,
        CONSTRAINT archived_events_pkey PRIMARY KEY (saga_id, seq)
    )
    """,
    (
        "COMMENT ON TABLE eventsaga.archived_events"
        " IS 'events of sagas that were archived into this database'"
    ),
    """
    CREATE FUNCTION eventsaga.remove_archived(saga_ids uuid[], heads bytea[]) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    DECLARE
        removed uuid[];
    BEGIN
        -- By id: of two who do this at once, one waits for the other.
        PERFORM FROM eventsaga.sagas s
          WHERE s.saga_id = ANY (saga_ids) ORDER BY s.saga_id FOR UPDATE;
        SELECT array_agg(DISTINCT s.saga_id) INTO removed
          FROM unnest(saga_ids, heads) AS g(saga_id, head)
          JOIN eventsaga.sagas s ON s.saga_id = g.saga_id
          JOIN eventsaga.events e ON e.saga_id = s.saga_id AND e.seq = s.last_seq
         WHERE s.status IN ('COMPLETED', 'COMPENSATED', 'FAILED')
           AND s.last_hash = g.head AND e.hash = g.head
           -- Nobody has it, and it owes nobody anything: no hook, no answer.
           AND s.owner IS NULL AND s.wake_at IS NULL
           AND NOT EXISTS (SELECT FROM eventsaga.inbox i
                            WHERE i.saga_id = s.saga_id AND i.answered_at IS NULL)
           -- A parent that is here may yet be undone, and its children with it.
           AND NOT EXISTS (SELECT FROM eventsaga.sagas p WHERE p.saga_id = s.parent_id)
           AND NOT EXISTS (SELECT FROM eventsaga.sagas c
                            WHERE c.parent_id = s.saga_id
                              AND c.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED'));
        INSERT INTO eventsaga.archived_sagas AS a (saga_id, last_seq, last_hash)
        SELECT s.saga_id, s.last_seq, s.last_hash
          FROM eventsaga.sagas s WHERE s.saga_id = ANY (removed)
        ON CONFLICT (saga_id) DO UPDATE
           SET last_seq = excluded.last_seq, last_hash = excluded.last_hash,
               archived_at = excluded.archived_at, txid = excluded.txid;
        DELETE FROM eventsaga.events e WHERE e.saga_id = ANY (removed);
        DELETE FROM eventsaga.inbox i WHERE i.saga_id = ANY (removed);
        DELETE FROM eventsaga.sagas s WHERE s.saga_id = ANY (removed);
        RETURN QUERY SELECT unnest(removed);
    END
    $body$
    """,
    "REVOKE ALL ON FUNCTION eventsaga.remove_archived(uuid[], bytea[]) FROM PUBLIC",
    (
        "COMMENT ON FUNCTION eventsaga.remove_archived(uuid[], bytea[])"
        " IS 'remove sagas that have ended and stand at these heads, and return which'"
    ),
)

_DOWNGRADE = (
    "DROP FUNCTION eventsaga.remove_archived(uuid[], bytea[])",
    "DROP FUNCTION eventsaga.renumber_events()",
    _REFUSE_CHANGE,
    "DROP FUNCTION eventsaga.is_numbered()",
    "DROP TABLE eventsaga.archived_events, eventsaga.archived_sagas",
    "ALTER TABLE eventsaga.incarnations DROP COLUMN numbered_at",
    "DROP INDEX eventsaga.events_feed",
    "DROP TABLE eventsaga.feeds",
)


def upgrade() -> None:
    _execute((*_FEED, *_NUMBERING, *_ARCHIVE))


def downgrade() -> None:
    _execute(_DOWNGRADE)


def _execute(statements: tuple[str, ...]) -> None:
    schema = context.get_context().opts["schema"]
    for statement in statements:
        op.execute(qualify(statement, schema))

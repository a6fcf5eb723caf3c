"""The SQL contract: views to read by, functions to start, signal, cancel and check by.

Revision ID: 0004
Revises: 0003
"""

from alembic import context, op

from eventsaga.store.postgres.sql import qualify

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEXES = (
    # Rows come in the order of time, so a range of it is a range of pages.
    "CREATE INDEX events_occurred ON eventsaga.events USING brin (occurred_at)",
    (
        "CREATE INDEX events_undone ON eventsaga.events (saga_id)"
        " WHERE type = 'StepCompensationStarted'"
    ),
    (
        "CREATE INDEX events_in_doubt ON eventsaga.events (saga_id) WHERE type = 'StepInDoubt'"
        " OR type = 'StepFailed' AND data->>'effect_happened' = 'true'"
    ),
)

_VIEWS = (
    """
    CREATE VIEW eventsaga.saga_list AS
    SELECT s.saga_id, s.name, s.version, s.status, s.current_steps, s.context::jsonb AS context,
           s.error->>'step_name' AS error_step, s.error->>'message' AS error_message,
           (s.error->>'timestamp')::timestamptz AS error_at,
           s.correlation_id, s.parent_id, s.parent_step, s.last_seq AS events,
           s.created_at, s.updated_at,
           CASE WHEN s.status IN ('COMPLETED', 'COMPENSATED', 'FAILED')
                THEN s.updated_at END AS ended_at,
           s.owner AS worker_id, s.wake_at
      FROM eventsaga.sagas s
    """,
    """
    CREATE VIEW eventsaga.history AS
    SELECT e.saga_id, s.name AS saga_name, e.seq, e.type, e.data->>'step' AS step,
           e.data->>'operation' AS operation, (e.data->>'attempt')::int AS attempt,
           coalesce(e.data->>'message', e.data->>'reason') AS message, e.data->>'actor' AS actor,
           e.data::jsonb AS data, e.occurred_at, e.recorded_at, e.worker_id, s.correlation_id
      FROM eventsaga.events e
      LEFT JOIN eventsaga.sagas s USING (saga_id)
    """,
    # What ends an attempt is the next thing that is recorded of its step.
    """
    CREATE VIEW eventsaga.step_attempts AS
    SELECT b.saga_id, s.name AS saga_name, b.data->>'step' AS step,
           CASE b.type WHEN 'StepStarted' THEN 'execute'
                       WHEN 'VerificationStarted' THEN 'verify'
                       ELSE 'compensate' END AS operation,
           (b.data->>'attempt')::int AS attempt,
           b.data->>'idempotency_key' AS idempotency_key,
           CASE WHEN e.type IS NULL THEN 'running'
                WHEN e.type IN ('StepSucceeded', 'StepCompensated') THEN 'succeeded'
                WHEN e.type = 'StepInDoubt' THEN 'in doubt'
                WHEN e.type = 'StepResolved' THEN 'resolved'
                WHEN e.type = 'StepSkipped' THEN 'skipped'
                ELSE 'failed' END AS outcome,
           e.data->>'error_type' AS error_type, e.data->>'message' AS message,
           (e.data->>'retry_at')::timestamptz AS retry_at, (e.data->'result')::jsonb AS result,
           b.occurred_at AS started_at, e.occurred_at AS ended_at,
           e.occurred_at - b.occurred_at AS duration, b.recorded_at,
           b.worker_id, b.seq AS started_seq, e.seq AS ended_seq
      FROM eventsaga.events b
      LEFT JOIN eventsaga.sagas s USING (saga_id)
      LEFT JOIN LATERAL (
           SELECT n.seq, n.type, n.data, n.occurred_at
             FROM eventsaga.events n
            WHERE n.saga_id = b.saga_id AND n.seq > b.seq
              AND n.data->>'step' = b.data->>'step'
              AND n.type IN ('StepSucceeded', 'StepFailed', 'StepInDoubt', 'StepResolved',
                             'StepSkipped', 'StepCompensated', 'StepCompensationFailed')
            ORDER BY n.seq
            LIMIT 1) e ON true
     WHERE b.type IN ('StepStarted', 'VerificationStarted', 'StepCompensationStarted')
    """,
    """
    CREATE VIEW eventsaga.in_doubt AS
    SELECT DISTINCT ON (e.saga_id, e.data->>'step', o.operation)
           e.saga_id, s.name AS saga_name, s.status, e.data->>'step' AS step, o.operation,
           (e.data->>'attempt')::int AS attempt,
           e.saga_id || '/' || (e.data->>'step')
               || CASE o.operation WHEN 'compensate' THEN '/undo' ELSE '' END AS idempotency_key,
           e.data->>'error_type' AS error_type, e.data->>'message' AS message,
           e.occurred_at AS since, s.correlation_id
      FROM eventsaga.events e
      JOIN eventsaga.sagas s USING (saga_id)
     CROSS JOIN LATERAL (SELECT coalesce(e.data->>'operation', 'execute')) o(operation)
     WHERE (e.type = 'StepInDoubt'
            OR e.type = 'StepFailed' AND e.data->>'effect_happened' = 'true')
       AND NOT EXISTS (
               SELECT FROM eventsaga.events l
                WHERE l.saga_id = e.saga_id AND l.seq > e.seq
                  AND l.data->>'step' = e.data->>'step'
                  AND (l.type IN ('StepCompensated', 'StepResolved')
                       OR o.operation <> 'compensate'
                          AND (l.type = 'StepSucceeded'
                               OR l.type = 'StepFailed'
                                  AND l.data->>'effect_happened' = 'false')))
     ORDER BY e.saga_id, e.data->>'step', o.operation, e.seq
    """,
    """
    CREATE VIEW eventsaga.stuck AS
    SELECT s.saga_id, s.name AS saga_name, s.version, s.status,
           CASE WHEN s.status = 'PARKED' THEN 'parked'
                WHEN w.lease_until > statement_timestamp() THEN 'no progress'
                ELSE 'no worker' END AS why,
           s.error->>'step_name' AS step, s.error->>'message' AS message,
           CASE WHEN s.status <> 'PARKED' AND s.owner IS NULL THEN s.wake_at
                ELSE s.updated_at END AS since,
           s.current_steps, s.owner AS worker_id, s.correlation_id
      FROM eventsaga.sagas s
      LEFT JOIN eventsaga.workers w ON w.worker_id = s.owner
     WHERE s.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')
       AND (s.status = 'PARKED'
            OR s.owner IS NULL AND s.wake_at < statement_timestamp() - interval '1 min'
            OR w.lease_until < statement_timestamp() - interval '1 min'
            OR s.updated_at < statement_timestamp() - interval '5 min' AND s.owner IS NOT NULL)
    """,
    # One row a step and way back: its attempts, what became of the last one, and why.
    """
    CREATE VIEW eventsaga.compensations AS
    SELECT b.saga_id, s.name AS saga_name, b.step, b.attempts,
           CASE WHEN e.type IS NULL THEN 'running'
                WHEN e.type = 'StepCompensated' THEN 'succeeded'
                WHEN e.type = 'StepResolved' THEN 'resolved'
                WHEN e.type = 'StepSkipped' THEN 'skipped'
                WHEN e.data->>'retry_at' IS NULL THEN 'failed'
                ELSE 'waiting' END AS outcome,
           coalesce(e.data->>'message', e.data->>'reason') AS message,
           b.started_at, e.occurred_at AS ended_at,
           t.data->>'reason' AS because, t.data->>'because_of' AS because_of_step,
           coalesce(r.data->>'reason', t.data->>'message') AS reason,
           coalesce(e.data->>'actor', r.data->>'actor') AS actor
      FROM (SELECT c.saga_id, c.data->>'step' AS step, count(*) AS attempts,
                   min(c.occurred_at) AS started_at, max(c.seq) AS last_seq
              FROM eventsaga.events c
             WHERE c.type = 'StepCompensationStarted'
             GROUP BY c.saga_id, c.data->>'step') b
      LEFT JOIN eventsaga.sagas s USING (saga_id)
      LEFT JOIN LATERAL (
           SELECT n.type, n.data, n.occurred_at
             FROM eventsaga.events n
            WHERE n.saga_id = b.saga_id AND n.seq > b.last_seq AND n.data->>'step' = b.step
              AND n.type IN ('StepCompensated', 'StepCompensationFailed', 'StepInDoubt',
                             'StepResolved', 'StepSkipped')
            ORDER BY n.seq DESC
            LIMIT 1) e ON true
      LEFT JOIN LATERAL (
           SELECT n.seq, n.data
             FROM eventsaga.events n
            WHERE n.saga_id = b.saga_id AND n.seq < b.last_seq AND n.type = 'CompensationStarted'
            ORDER BY n.seq DESC
            LIMIT 1) t ON true
      LEFT JOIN LATERAL (
           SELECT n.data
             FROM eventsaga.events n
            WHERE n.saga_id = b.saga_id AND n.seq < t.seq
              AND n.type = CASE t.data->>'reason' WHEN 'undo' THEN 'UndoRequested'
                                                  WHEN 'cancelled' THEN 'SagaCancelRequested' END
            ORDER BY n.seq DESC
            LIMIT 1) r ON true
    """,
    """
    CREATE VIEW eventsaga.workers_live AS
    SELECT w.worker_id, w.host, w.pid, w.definitions, w.started_at, w.heartbeat_at,
           w.lease_until - clock_timestamp() AS lease_left,
           (SELECT count(*) FROM eventsaga.sagas s WHERE s.owner = w.worker_id) AS sagas
      FROM eventsaga.workers w
     WHERE w.lease_until > clock_timestamp()
    """,
    "COMMENT ON VIEW eventsaga.saga_list IS 'one row a saga: where it stands'",
    "COMMENT ON VIEW eventsaga.history IS 'one row an event'",
    "COMMENT ON VIEW eventsaga.step_attempts IS 'one row an attempt of a step or compensation'",
    "COMMENT ON VIEW eventsaga.in_doubt IS 'effects that may have happened, and nobody knows'",
    "COMMENT ON VIEW eventsaga.stuck IS 'sagas that need a person or a worker'",
    "COMMENT ON VIEW eventsaga.compensations IS 'one row a step that was undone, and why'",
    "COMMENT ON VIEW eventsaga.workers_live IS 'workers whose lease has not ended'",
)

_FUNCTIONS = (
    # Ids grow with time (RFC 9562, version 7).
    """
    CREATE FUNCTION eventsaga.new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_byte(id, 6, get_byte(id, 6) & 15 | 112), 'hex')::uuid
      FROM (SELECT overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(
                       floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                       FROM 1 FOR 6) AS id) random
    $$
    """,
    """
    CREATE FUNCTION eventsaga.link(previous bytea, saga_id uuid, seq integer, type text,
                                   occurred_at timestamptz, salt bytea, data text)
    RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(previous || uuid_send(saga_id) || int4send(seq) || convert_to(type, 'UTF8')
                  || timestamptz_send(occurred_at)
                  || sha256(salt || convert_to(data, 'UTF8')))
    $$
    """,
    """
    CREATE FUNCTION eventsaga.start_saga(
        name text, context jsonb DEFAULT '{}', key text DEFAULT NULL,
        correlation_id text DEFAULT NULL, version integer DEFAULT NULL)
    RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
    DECLARE
        shape eventsaga.definitions%ROWTYPE;
        id uuid := eventsaga.new_id();
        at timestamptz := clock_timestamp();
        input text := context::text;
        trace text := coalesce(correlation_id, id::text);
        digest bytea := convert_to('sql', 'UTF8') || sha256(convert_to(input, 'UTF8'));
        data text;
        salt bytea := uuid_send(gen_random_uuid());
        hash bytea;
        known eventsaga.start_keys%ROWTYPE;
    BEGIN
        SELECT d.* INTO shape
          FROM eventsaga.definitions d
         WHERE d.name = start_saga.name
           AND (start_saga.version IS NULL OR d.version = start_saga.version)
         ORDER BY d.version DESC, d.first_seen_at DESC
         LIMIT 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no worker has ever brought a saga %', concat_ws(' version ',
                            quote_nullable(name), version)
                USING ERRCODE = 'undefined_object',
                      HINT = 'Start a worker that has it, or look into the table definitions.';
        END IF;
        IF jsonb_typeof(context) IS DISTINCT FROM 'object' THEN
            RAISE EXCEPTION 'the context must be a JSON object, not %',
                            coalesce(jsonb_typeof(context), 'null')
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF octet_length(input) > 1000000 THEN
            RAISE EXCEPTION 'a context of % bytes exceeds the limit of 1000000',
                            octet_length(input)
                USING ERRCODE = 'program_limit_exceeded';
        END IF;
        IF key IS NOT NULL AND (key = '' OR length(key) > 500 OR key ~ '[[:cntrl:]]') THEN
            RAISE EXCEPTION 'the key must be 1 to 500 printable characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF trace !~ '^[ -~]{1,200}$' THEN
            RAISE EXCEPTION 'the correlation id must be 1 to 200 printable ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF key IS NOT NULL THEN
            INSERT INTO eventsaga.start_keys (saga_name, key, saga_id, input_digest)
            VALUES (start_saga.name, start_saga.key, id, digest)
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                SELECT k.* INTO known
                  FROM eventsaga.start_keys k
                 WHERE k.saga_name = start_saga.name AND k.key = start_saga.key;
                IF NOT FOUND THEN
                    RAISE EXCEPTION 'key % was taken by a transaction that this one cannot see',
                                    quote_literal(key)
                        USING ERRCODE = 'serialization_failure';
                END IF;
                -- What was started by other means had its input written by its model.
                IF length(known.input_digest) = length(digest) AND known.input_digest <> digest
                THEN
                    RAISE EXCEPTION 'key % stands for saga %, which has another context',
                                    quote_literal(key), known.saga_id
                        USING ERRCODE = 'unique_violation';
                END IF;
                RETURN known.saga_id;
            END IF;
        END IF;
        data := (jsonb_build_object(
                     'saga_name', shape.name, 'version', shape.version,
                     'fingerprint', shape.fingerprint, 'context', '{}'::jsonb,
                     'correlation_id', trace, 'input', input)
                 || CASE WHEN key IS NULL THEN '{}' ELSE jsonb_build_object('key', key) END)::text;
        hash := eventsaga.link(decode(repeat('00', 32), 'hex'), id, 1, 'SagaStarted', at, salt,
                               data);
        INSERT INTO eventsaga.sagas
               (saga_id, name, version, fingerprint, status, current_steps, context,
                correlation_id, last_seq, last_hash, created_at, updated_at, wake_at)
        VALUES (id, shape.name, shape.version, shape.fingerprint, 'PENDING', '{}', '{}',
                trace, 1, hash, at, at, at);
        INSERT INTO eventsaga.events
               (saga_id, seq, type, schema_version, data, occurred_at, salt, hash)
        VALUES (id, 1, 'SagaStarted', 1, data::json, at, salt, hash);
        RETURN id;
    END
    $$
    """,
    """
    CREATE FUNCTION eventsaga.write_to(
        saga_id uuid, kind text, data jsonb, id uuid, actor text)
    RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
    DECLARE
        found_status text;
        message uuid := coalesce(id, gen_random_uuid());
    BEGIN
        SELECT s.status INTO found_status FROM eventsaga.sagas s WHERE s.saga_id = write_to.saga_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no saga %', coalesce(saga_id::text, 'null')
                USING ERRCODE = 'no_data_found';
        END IF;
        IF found_status IN ('COMPLETED', 'COMPENSATED', 'FAILED') THEN
            RAISE EXCEPTION 'saga % is %: nothing can be said to it any more', saga_id, found_status
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        INSERT INTO eventsaga.inbox AS i (saga_id, id, kind, data, actor)
        VALUES (write_to.saga_id, message, write_to.kind, write_to.data::json,
                coalesce(write_to.actor, session_user))
        ON CONFLICT ON CONSTRAINT inbox_pkey DO UPDATE
           SET kind = excluded.kind, data = excluded.data, actor = excluded.actor,
               created_at = excluded.created_at, answered_at = NULL, refused = NULL
         WHERE i.refused IS NOT NULL;
        RETURN message;
    END
    $$
    """,
    """
    CREATE FUNCTION eventsaga.signal_saga(
        saga_id uuid, name text, payload jsonb DEFAULT '{}', id uuid DEFAULT NULL,
        actor text DEFAULT NULL)
    RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT eventsaga.write_to(saga_id, 'signal',
                              jsonb_build_object('name', name, 'payload', payload), id, actor)
    $$
    """,
    """
    CREATE FUNCTION eventsaga.cancel_saga(
        saga_id uuid, reason text, id uuid DEFAULT NULL, actor text DEFAULT NULL)
    RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT eventsaga.write_to(saga_id, 'cancel', jsonb_build_object('reason', reason), id, actor)
    $$
    """,
    # The same fold as that of the workers, for the context only.
    """
    CREATE FUNCTION eventsaga.context_at(saga_id uuid, seq integer)
    RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
    DECLARE
        e record;
        known jsonb;
        patch jsonb;
        part text[];
        field_of jsonb := '{}';
        sizes jsonb := '{}';
        results jsonb := '{}';
    BEGIN
        FOR e IN SELECT v.type, v.data::jsonb AS data, v.data->>'step' AS step
                   FROM eventsaga.events v
                  WHERE v.saga_id = context_at.saga_id AND v.seq <= context_at.seq
                  ORDER BY v.seq
        LOOP
            IF e.type IN ('SagaStarted', 'SagaAccepted') THEN
                known := e.data->'context';
            ELSIF e.type = 'ForEachStarted' AND e.data ? 'into' THEN
                field_of := field_of || jsonb_build_object(e.step, e.data->'into');
                sizes := sizes || jsonb_build_object(e.step, jsonb_array_length(e.data->'items'));
            ELSIF e.type = 'StepSucceeded'
                  OR e.type = 'StepResolved' AND e.data->>'resolution' = 'succeeded'
                  OR e.type = 'StepCompensated' THEN
                patch := e.data->'result';
                part := CASE WHEN e.type <> 'StepCompensated'
                             THEN regexp_match(e.step, '^(.*)\\[([0-9]+)\\]$') END;
                IF part IS NOT NULL AND field_of ? part[1] THEN
                    results := results || jsonb_build_object(e.step, coalesce(patch, 'null'));
                    patch := NULL;
                ELSIF patch IS NULL AND e.type <> 'StepCompensated' AND field_of ? e.step THEN
                    SELECT jsonb_build_object(field_of->>e.step, coalesce(jsonb_agg(
                               coalesce(results->(e.step || '[' || n || ']'), 'null')
                               ORDER BY n), '[]'))
                      INTO patch
                      FROM generate_series(0, (sizes->>e.step)::int - 1) n;
                END IF;
                IF jsonb_typeof(patch) = 'object' AND NOT e.data ? 'conflict' THEN
                    known := known || patch;
                END IF;
            END IF;
        END LOOP;
        RETURN known;
    END
    $$
    """,
    """
    CREATE FUNCTION eventsaga.context_at(saga_id uuid, at timestamptz)
    RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT eventsaga.context_at($1, max(e.seq))
      FROM eventsaga.events e
     WHERE e.saga_id = $1 AND e.recorded_at <= $2
    $$
    """,
    """
    CREATE FUNCTION eventsaga.verify_chain(saga_id uuid)
    RETURNS TABLE (seq integer, problem text) LANGUAGE sql STABLE AS $$
    WITH linked AS (
        SELECT e.seq, e.hash,
               row_number() OVER (ORDER BY e.seq) AS expected,
               eventsaga.link(
                   lag(e.hash, 1, decode(repeat('00', 32), 'hex')) OVER (ORDER BY e.seq),
                   e.saga_id, e.seq, e.type, e.occurred_at, e.salt, e.data::text) AS right_hash
          FROM eventsaga.events e
         WHERE e.saga_id = $1
    ), head AS (
        SELECT s.last_seq, s.last_hash FROM eventsaga.sagas s WHERE s.saga_id = $1
    )
    SELECT l.seq, 'the event before it is missing'
      FROM linked l WHERE l.seq <> l.expected AND l.seq - 1 NOT IN (SELECT seq FROM linked)
     UNION ALL
    SELECT l.seq, 'its hash does not follow from its data and the hash before it'
      FROM linked l WHERE l.right_hash IS DISTINCT FROM l.hash
     UNION ALL
    SELECT h.last_seq, 'the row of the saga does not end where its events do'
      FROM head h
     WHERE NOT EXISTS (SELECT FROM (SELECT * FROM linked ORDER BY seq DESC LIMIT 1) l
                        WHERE l.seq = h.last_seq AND l.hash = h.last_hash)
     UNION ALL
    SELECT 0, CASE WHEN EXISTS (SELECT FROM linked) THEN 'the row of the saga is missing'
                   ELSE 'there is no such saga' END
     WHERE NOT EXISTS (SELECT FROM head)
     ORDER BY 1, 2
    $$
    """,
    (
        "COMMENT ON FUNCTION eventsaga.start_saga(text, jsonb, text, text, integer)"
        " IS 'start a saga in this transaction; the same key starts it once'"
    ),
    (
        "COMMENT ON FUNCTION eventsaga.signal_saga(uuid, text, jsonb, uuid, text)"
        " IS 'send a signal in this transaction; the same id is taken once'"
    ),
    (
        "COMMENT ON FUNCTION eventsaga.cancel_saga(uuid, text, uuid, text)"
        " IS 'ask a saga in this transaction to go back'"
    ),
    (
        "COMMENT ON FUNCTION eventsaga.context_at(uuid, integer)"
        " IS 'what a saga knew after an event'"
    ),
    (
        "COMMENT ON FUNCTION eventsaga.context_at(uuid, timestamptz)"
        " IS 'what a saga knew at an instant'"
    ),
    "COMMENT ON FUNCTION eventsaga.verify_chain(uuid) IS 'no rows: the history is whole'",
)

_DOWNGRADE = (
    (
        "DROP VIEW eventsaga.compensations, eventsaga.step_attempts, eventsaga.in_doubt,"
        " eventsaga.stuck, eventsaga.workers_live, eventsaga.history, eventsaga.saga_list"
    ),
    "DROP FUNCTION eventsaga.verify_chain(uuid)",
    "DROP FUNCTION eventsaga.context_at(uuid, timestamptz)",
    "DROP FUNCTION eventsaga.context_at(uuid, integer)",
    "DROP FUNCTION eventsaga.cancel_saga(uuid, text, uuid, text)",
    "DROP FUNCTION eventsaga.signal_saga(uuid, text, jsonb, uuid, text)",
    "DROP FUNCTION eventsaga.write_to(uuid, text, jsonb, uuid, text)",
    "DROP FUNCTION eventsaga.start_saga(text, jsonb, text, text, integer)",
    "DROP FUNCTION eventsaga.link(bytea, uuid, integer, text, timestamptz, bytea, text)",
    "DROP FUNCTION eventsaga.new_id()",
    "DROP INDEX eventsaga.events_occurred, eventsaga.events_undone, eventsaga.events_in_doubt",
)


def upgrade() -> None:
    _execute((*_INDEXES, *_VIEWS, *_FUNCTIONS))


def downgrade() -> None:
    _execute(_DOWNGRADE)


def _execute(statements: tuple[str, ...]) -> None:
    schema = context.get_context().opts["schema"]
    for statement in statements:
        op.execute(qualify(statement, schema))

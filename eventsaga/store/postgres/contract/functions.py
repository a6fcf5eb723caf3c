"""What is done in SQL? Start, signal, cancel, look back and check, in the caller's transaction."""

from typing import Final

# The views call it.
DIGEST: Final = """
CREATE OR REPLACE FUNCTION eventsaga.digest(salt bytea, data text)
RETURNS bytea LANGUAGE sql STABLE AS $$
SELECT sha256(salt || convert_to(data, 'UTF8'))
$$
"""

FUNCTIONS: Final = (
    # Ids grow with time (RFC 9562, version 7).
    """
    CREATE OR REPLACE FUNCTION eventsaga.new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_byte(id, 6, get_byte(id, 6) & 15 | 112), 'hex')::uuid
      FROM (SELECT overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(
                       floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                       FROM 1 FOR 6) AS id) random
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION eventsaga.link(
        previous bytea, saga_id uuid, seq integer, type text, occurred_at timestamptz,
        digest bytea)
    RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(previous || uuid_send(saga_id) || int4send(seq) || convert_to(type, 'UTF8')
                  || timestamptz_send(occurred_at) || digest)
    $$
    """,
    # For whom this transaction acts: SET LOCAL eventsaga.tenant = 'acme'. The setting has this
    # name in every schema; written in one piece, it would be taken for something in the schema.
    """
    CREATE OR REPLACE FUNCTION eventsaga.tenant() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('eventsaga' || '.tenant', true), '')
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION eventsaga.start_saga(
        name text, context jsonb DEFAULT '{}', key text DEFAULT NULL,
        correlation_id text DEFAULT NULL, version integer DEFAULT NULL)
    RETURNS uuid LANGUAGE plpgsql VOLATILE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
        whose text := eventsaga.tenant();
        start_key text := coalesce(whose || chr(31), '') || key;
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
        IF whose !~ '^[^[:cntrl:]]{1,100}$' THEN
            RAISE EXCEPTION 'the tenant must be 1 to 100 printable characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF trace !~ '^[ -~]{1,200}$' THEN
            RAISE EXCEPTION 'the correlation id must be 1 to 200 printable ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF key IS NOT NULL THEN
            INSERT INTO eventsaga.start_keys (saga_name, key, saga_id, input_digest)
            VALUES (start_saga.name, start_key, id, digest)
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                SELECT k.* INTO known
                  FROM eventsaga.start_keys k
                 WHERE k.saga_name = start_saga.name AND k.key = start_key;
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
                 || jsonb_strip_nulls(jsonb_build_object('key', key, 'tenant', whose)))::text;
        hash := eventsaga.link(decode(repeat('00', 32), 'hex'), id, 1, 'SagaStarted', at,
                               eventsaga.digest(salt, data));
        INSERT INTO eventsaga.sagas
               (saga_id, name, version, fingerprint, status, current_steps, context,
                correlation_id, last_seq, last_hash, created_at, updated_at, wake_at, tenant)
        VALUES (id, shape.name, shape.version, shape.fingerprint, 'PENDING', '{}', '{}',
                trace, 1, hash, at, at, at, whose);
        INSERT INTO eventsaga.events
               (saga_id, seq, type, schema_version, data, occurred_at, salt, hash)
        VALUES (id, 1, 'SagaStarted', 1, data::json, at, salt, hash);
        RETURN id;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION eventsaga.write_to(
        saga_id uuid, kind text, data jsonb, id uuid, actor text)
    RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
    DECLARE
        found_status text;
        message uuid := coalesce(id, gen_random_uuid());
    BEGIN
        SELECT s.status INTO found_status
          FROM eventsaga.sagas s
         WHERE s.saga_id = write_to.saga_id AND s.tenant IS NOT DISTINCT FROM eventsaga.tenant();
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
    CREATE OR REPLACE FUNCTION eventsaga.signal_saga(
        saga_id uuid, name text, payload jsonb DEFAULT '{}', id uuid DEFAULT NULL,
        actor text DEFAULT NULL)
    RETURNS uuid LANGUAGE sql VOLATILE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT eventsaga.write_to(saga_id, 'signal',
                              jsonb_build_object('name', name, 'payload', payload), id, actor)
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION eventsaga.cancel_saga(
        saga_id uuid, reason text, id uuid DEFAULT NULL, actor text DEFAULT NULL)
    RETURNS uuid LANGUAGE sql VOLATILE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT eventsaga.write_to(saga_id, 'cancel', jsonb_build_object('reason', reason), id, actor)
    $$
    """,
    # The same fold as that of the workers, for the context only.
    """
    CREATE OR REPLACE FUNCTION eventsaga.context_at(saga_id uuid, seq integer)
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
        FOR e IN SELECT v.type, v.data, v.step
                   FROM eventsaga.history v
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
    CREATE OR REPLACE FUNCTION eventsaga.context_at(saga_id uuid, at timestamptz)
    RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT eventsaga.context_at($1, max(e.seq))
      FROM eventsaga.history e
     WHERE e.saga_id = $1 AND e.recorded_at <= $2
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION eventsaga.verify_chain(saga_id uuid)
    RETURNS TABLE (seq integer, problem text) LANGUAGE sql STABLE AS $$
    WITH linked AS (
        SELECT e.seq, e.hash,
               row_number() OVER (ORDER BY e.seq) AS expected,
               eventsaga.link(
                   lag(e.hash, 1, decode(repeat('00', 32), 'hex')) OVER (ORDER BY e.seq),
                   e.saga_id, e.seq, e.type, e.occurred_at, e.digest) AS right_hash
          FROM eventsaga.chain e
         WHERE e.saga_id = $1
    ), head AS (
        SELECT h.seq AS last_seq, h.hash AS last_hash FROM eventsaga.heads h WHERE h.saga_id = $1
    ), told AS (
        -- What each event was left with, by the last redaction that concerned it.
        SELECT DISTINCT ON (t.key) t.key::integer AS seq, t.value AS left_with
          FROM eventsaga.history r
         CROSS JOIN LATERAL jsonb_each_text(r.data->'events') t
         WHERE r.saga_id = $1 AND r.type = 'DataRedacted'
         ORDER BY t.key, r.seq DESC
    ), redacted AS (
        SELECT c.seq, c.left_with FROM eventsaga.chain c WHERE c.saga_id = $1 AND c.redacted
    )
    SELECT l.seq, 'the event before it is missing'
      FROM linked l WHERE l.seq <> l.expected AND l.seq - 1 NOT IN (SELECT seq FROM linked)
     UNION ALL
    SELECT l.seq, 'its hash does not follow from its data and the hash before it'
      FROM linked l WHERE l.right_hash IS DISTINCT FROM l.hash
     UNION ALL
    SELECT coalesce(r.seq, t.seq), 'what is left of it is not what its redaction tells'
      FROM redacted r FULL JOIN told t USING (seq)
     WHERE r.left_with IS DISTINCT FROM t.left_with
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
    # Strings that are to be found nowhere any more: those at a path, or below it.
    """
    CREATE OR REPLACE FUNCTION eventsaga.strings_at(value json, path text[])
    RETURNS SETOF text LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        place text := CASE WHEN path[1] ~ '^[0-9]{1,9}$' THEN path[1] END;
    BEGIN
        IF json_typeof(value) = 'object' THEN
            RETURN QUERY
            SELECT s FROM json_each(value) f, LATERAL eventsaga.strings_at(f.value, path[2:]) s
             WHERE cardinality(path) = 0 OR f.key = path[1];
        ELSIF json_typeof(value) = 'array' THEN
            -- A name goes through a list, to each of its items.
            RETURN QUERY
            SELECT s
              FROM json_array_elements(value) WITH ORDINALITY f(value, n),
                   LATERAL eventsaga.strings_at(
                       f.value, CASE WHEN place IS NULL THEN path ELSE path[2:] END) s
             WHERE place IS NULL OR n - 1 = place::integer;
        ELSIF json_typeof(value) = 'string' AND cardinality(path) = 0 THEN
            RETURN NEXT value #>> '{}';
        END IF;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION eventsaga.without(value text, needles text[])
    RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        needle text;
    BEGIN
        FOREACH needle IN ARRAY needles LOOP
            value := replace(value, needle, '[redacted]');
        END LOOP;
        RETURN value;
    END
    $$
    """,
    # Order and spelling of everything else stay, so that the row is still a fold of the events.
    """
    CREATE OR REPLACE FUNCTION eventsaga.without(value json, path text[], needles text[])
    RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        place text := CASE WHEN path[1] ~ '^[0-9]{1,9}$' THEN path[1] END;
        parts text;
    BEGIN
        IF cardinality(path) = 0 THEN
            RETURN CASE WHEN json_typeof(value) = 'string' THEN '"[redacted]"' ELSE 'null' END;
        ELSIF json_typeof(value) = 'object' THEN
            SELECT string_agg(
                       to_json(eventsaga.without(f.key, needles)) || ':' || eventsaga.without(
                           f.value, CASE WHEN f.key = path[1] THEN path[2:] END, needles),
                       ',' ORDER BY f.n)
              INTO parts
              FROM json_each(value) WITH ORDINALITY f(key, value, n);
            RETURN '{' || coalesce(parts, '') || '}';
        ELSIF json_typeof(value) = 'array' THEN
            SELECT string_agg(eventsaga.without(
                       f.value,
                       CASE WHEN place IS NULL THEN path
                            WHEN n - 1 = place::integer THEN path[2:] END, needles)::text,
                       ',' ORDER BY f.n)
              INTO parts
              FROM json_array_elements(value) WITH ORDINALITY f(value, n);
            RETURN '[' || coalesce(parts, '') || ']';
        ELSIF json_typeof(value) = 'string'
              AND eventsaga.without(value #>> '{}', needles) <> value #>> '{}' THEN
            RETURN to_json(eventsaga.without(value #>> '{}', needles));
        END IF;
        RETURN value;
    END
    $$
    """,
    # Names of steps, keys for participants and the like are the engine's own: they stay.
    """
    CREATE OR REPLACE FUNCTION eventsaga.without(
        type text, data json, path text[], needles text[], hidden_key text)
    RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT ('{' || coalesce(string_agg(to_json(f.key) || ':' || CASE
               WHEN f.key IN ('context', 'result', 'items', 'payload')
               THEN eventsaga.without(f.value, path, needles)
               WHEN f.key = 'input'
               THEN to_json(eventsaga.without((f.value #>> '{}')::json, path, needles)::text)
               WHEN f.key IN ('message', 'remedy', 'correlation_id', 'actor')
                    OR f.key = 'reason' AND type IN ('SagaCancelRequested', 'SagaRetried',
                           'StepResolved', 'StepSkipped', 'UndoRequested', 'SagaFailed')
               THEN eventsaga.without(f.value, NULL, needles)
               WHEN f.key = 'key' AND eventsaga.without(f.value #>> '{}', needles)
                                      <> f.value #>> '{}'
               THEN to_json(hidden_key)
               ELSE f.value END, ',' ORDER BY f.n), '') || '}')::json
      FROM json_each(data) WITH ORDINALITY f(key, value, n)
    $$
    """,
    # What was archived comes back, is redacted and leaves again, unseen by anybody else. It is
    # called by `redact` only, with the rights of that.
    """
    CREATE OR REPLACE FUNCTION eventsaga.redact_archived(
        saga_id uuid, path text, reason text, actor text)
    RETURNS integer LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        changed integer;
    BEGIN
        PERFORM FROM eventsaga.archived_sagas a
          WHERE a.saga_id = redact_archived.saga_id FOR UPDATE;
        INSERT INTO eventsaga.events
               (saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id,
                salt, hash, digest)
        SELECT a.saga_id, a.seq, a.type, a.schema_version, a.data, a.occurred_at, a.recorded_at,
               a.worker_id, a.salt, a.hash, a.digest
          FROM eventsaga.archived_events a
         WHERE a.saga_id = redact_archived.saga_id;
        -- What stands in the row matters to nobody: it is gone at the end.
        INSERT INTO eventsaga.sagas
               (saga_id, name, version, fingerprint, status, current_steps, context,
                correlation_id, last_seq, last_hash, created_at, updated_at, tenant)
        SELECT f.saga_id, f.data->>'saga_name', (f.data->>'version')::int,
               f.data->>'fingerprint', 'COMPLETED', '{}', '{}', f.data->>'correlation_id',
               l.seq, l.hash, f.occurred_at, l.occurred_at, f.data->>'tenant'
          FROM eventsaga.archived_events f
          JOIN LATERAL (SELECT a.seq, a.hash, a.occurred_at FROM eventsaga.archived_events a
                         WHERE a.saga_id = f.saga_id ORDER BY a.seq DESC LIMIT 1) l ON true
         WHERE f.saga_id = redact_archived.saga_id AND f.seq = 1;
        changed := eventsaga.redact(saga_id, path, reason, actor);
        DELETE FROM eventsaga.archived_events a WHERE a.saga_id = redact_archived.saga_id;
        INSERT INTO eventsaga.archived_events
               (saga_id, seq, type, schema_version, data, occurred_at, recorded_at, worker_id,
                salt, hash, digest)
        SELECT e.saga_id, e.seq, e.type, e.schema_version, e.data, e.occurred_at, e.recorded_at,
               e.worker_id, e.salt, e.hash, e.digest
          FROM eventsaga.events e
         WHERE e.saga_id = redact_archived.saga_id;
        PERFORM FROM eventsaga.sagas s,
                     eventsaga.remove_archived(ARRAY[s.saga_id], ARRAY[s.last_hash])
          WHERE s.saga_id = redact_archived.saga_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'saga % does not go back to its archive', saga_id;
        END IF;
        RETURN changed;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION eventsaga.redact(
        saga_id uuid, path text, reason text, actor text DEFAULT NULL)
    RETURNS integer LANGUAGE plpgsql VOLATILE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        saga eventsaga.sagas%ROWTYPE;
        way text[] := string_to_array(path, '.');
        needles text[];
        hidden_key text := '[redacted] ' || saga_id;
        stored record;
        fresh json;
        left_with jsonb := '{}';
        at timestamptz;
        data text;
        salt bytea := uuid_send(gen_random_uuid());
        hash bytea;
    BEGIN
        IF path IS NULL OR path = '' OR '' = ANY (way) THEN
            RAISE EXCEPTION 'the path must be names with dots between them, not %',
                            quote_nullable(path)
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF coalesce(trim(reason), '') = '' THEN
            RAISE EXCEPTION 'say why: the reason is recorded'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT s.* INTO saga FROM eventsaga.sagas s WHERE s.saga_id = redact.saga_id FOR UPDATE;
        IF NOT FOUND THEN
            IF EXISTS (SELECT FROM eventsaga.archived_events a
                        WHERE a.saga_id = redact.saga_id) THEN
                RETURN eventsaga.redact_archived(saga_id, path, reason, actor);
            END IF;
            RAISE EXCEPTION 'there is no saga %', coalesce(saga_id::text, 'null')
                USING ERRCODE = 'no_data_found';
        END IF;
        IF saga.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED') THEN
            RAISE EXCEPTION 'saga % is %: it still needs what it knows', saga_id, saga.status
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'Let it end, or cancel it, first.';
        END IF;
        IF saga.owner IS NOT NULL OR saga.wake_at IS NOT NULL THEN
            RAISE EXCEPTION 'saga % has ended, but a hook or an answer is still owed', saga_id
                USING ERRCODE = 'object_in_use', HINT = 'Try again when it is settled.';
        END IF;
        -- A short one would be found in words that have nothing to do with it.
        SELECT coalesce(array_agg(DISTINCT s ORDER BY s DESC), '{}') INTO needles
          FROM eventsaga.events e
         CROSS JOIN LATERAL (
               VALUES (e.data->'context'), (e.data->'result'), (e.data->'items'),
                      (e.data->'payload'), ((e.data->>'input')::json)) part(value)
         CROSS JOIN LATERAL eventsaga.strings_at(part.value, way) s
         WHERE e.saga_id = redact.saga_id AND length(s) >= 4 AND s <> '[redacted]';
        PERFORM set_config('eventsaga' || '.redacting', saga_id::text, true);
        FOR stored IN
            SELECT e.seq, e.type, e.data, e.salt, e.digest
              FROM eventsaga.events e
             WHERE e.saga_id = redact.saga_id AND e.type <> 'DataRedacted'
             ORDER BY e.seq
        LOOP
            fresh := eventsaga.without(stored.type, stored.data, way, needles, hidden_key);
            CONTINUE WHEN fresh::jsonb = stored.data::jsonb;
            UPDATE eventsaga.events e
               SET data = fresh, salt = NULL,
                   digest = coalesce(stored.digest,
                                     eventsaga.digest(stored.salt, stored.data::text))
             WHERE e.saga_id = redact.saga_id AND e.seq = stored.seq;
            left_with := left_with || jsonb_build_object(
                stored.seq, encode(sha256(convert_to(fresh::text, 'UTF8')), 'hex'));
        END LOOP;
        PERFORM set_config('eventsaga' || '.redacting', '', true);
        IF left_with = '{}' THEN
            RETURN 0;
        END IF;
        -- From them the value could be guessed.
        DELETE FROM eventsaga.inbox i WHERE i.saga_id = redact.saga_id;
        UPDATE eventsaga.start_keys k
           SET input_digest = '',
               key = CASE WHEN eventsaga.without(k.key, needles) = k.key THEN k.key
                          ELSE coalesce(saga.tenant || chr(31), '') || hidden_key END
         WHERE k.saga_id = redact.saga_id;
        at := greatest(clock_timestamp(), saga.updated_at);
        data := jsonb_build_object('path', path, 'reason', trim(reason),
                                   'actor', coalesce(actor, session_user), 'events', left_with);
        hash := eventsaga.link(saga.last_hash, saga_id, saga.last_seq + 1, 'DataRedacted', at,
                               eventsaga.digest(salt, data));
        INSERT INTO eventsaga.events
               (saga_id, seq, type, schema_version, data, occurred_at, salt, hash, txid)
        -- The transaction may be older than what the saga recorded last; see the feed.
        VALUES (saga_id, saga.last_seq + 1, 'DataRedacted', 1, data::json, at, salt, hash,
                greatest(pg_current_xact_id(),
                         (SELECT e.txid FROM eventsaga.events e
                           WHERE e.saga_id = redact.saga_id AND e.seq = saga.last_seq)));
        UPDATE eventsaga.sagas s
           SET context = eventsaga.without(saga.context, way, needles),
               error = CASE WHEN saga.error IS NOT NULL
                            THEN eventsaga.without('', saga.error, NULL, needles, NULL) END,
               correlation_id = eventsaga.without(saga.correlation_id, needles),
               last_seq = saga.last_seq + 1, last_hash = hash, updated_at = at
         WHERE s.saga_id = redact.saga_id;
        RETURN (SELECT count(*) FROM jsonb_object_keys(left_with));
    END
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
    (
        "COMMENT ON FUNCTION eventsaga.redact(uuid, text, text, text)"
        " IS 'take a value out of the history of a saga that has ended; the chain still holds'"
    ),
    # They act with the rights of their owner: whom they serve is for `eventsaga grants` to say.
    (
        "REVOKE ALL ON FUNCTION eventsaga.start_saga(text, jsonb, text, text, integer),"
        " eventsaga.signal_saga(uuid, text, jsonb, uuid, text),"
        " eventsaga.cancel_saga(uuid, text, uuid, text),"
        " eventsaga.write_to(uuid, text, jsonb, uuid, text),"
        " eventsaga.redact_archived(uuid, text, text, text),"
        " eventsaga.redact(uuid, text, text, text) FROM PUBLIC"
    ),
)

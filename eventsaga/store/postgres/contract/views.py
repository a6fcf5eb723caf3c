"""What is read by? One row a saga, an event, an attempt, a doubt, a way back, a worker."""

from typing import Final

VIEWS: Final = (
    """
    CREATE OR REPLACE VIEW eventsaga.saga_list AS
    SELECT s.saga_id, s.name, s.version, s.status, s.current_steps, s.context::jsonb AS context,
           s.error->>'step_name' AS error_step, s.error->>'message' AS error_message,
           (s.error->>'timestamp')::timestamptz AS error_at,
           s.correlation_id, s.parent_id, s.parent_step, s.last_seq AS events,
           s.created_at, s.updated_at,
           CASE WHEN s.status IN ('COMPLETED', 'COMPENSATED', 'FAILED')
                THEN s.updated_at END AS ended_at,
           s.owner AS worker_id, s.wake_at, s.tenant
      FROM eventsaga.sagas s
    """,
    """
    CREATE OR REPLACE VIEW eventsaga.history AS
    SELECT e.saga_id, s.name AS saga_name, e.seq, e.type, e.data->>'step' AS step,
           e.data->>'operation' AS operation, (e.data->>'attempt')::int AS attempt,
           coalesce(e.data->>'message', e.data->>'reason') AS message, e.data->>'actor' AS actor,
           e.data::jsonb AS data, e.occurred_at, e.recorded_at, e.worker_id, s.correlation_id,
           s.tenant
      FROM eventsaga.events e
      LEFT JOIN eventsaga.sagas s USING (saga_id)
    """,
    # What ends an attempt is the next thing that is recorded of its step.
    """
    CREATE OR REPLACE VIEW eventsaga.step_attempts AS
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
           b.worker_id, b.seq AS started_seq, e.seq AS ended_seq, s.tenant
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
    CREATE OR REPLACE VIEW eventsaga.in_doubt AS
    SELECT DISTINCT ON (e.saga_id, e.data->>'step', o.operation)
           e.saga_id, s.name AS saga_name, s.status, e.data->>'step' AS step, o.operation,
           (e.data->>'attempt')::int AS attempt,
           e.saga_id || '/' || (e.data->>'step')
               || CASE o.operation WHEN 'compensate' THEN '/undo' ELSE '' END AS idempotency_key,
           e.data->>'error_type' AS error_type, e.data->>'message' AS message,
           e.occurred_at AS since, s.correlation_id, s.tenant
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
    CREATE OR REPLACE VIEW eventsaga.stuck AS
    SELECT s.saga_id, s.name AS saga_name, s.version, s.status,
           CASE WHEN s.status = 'PARKED' THEN 'parked'
                WHEN w.lease_until > statement_timestamp() THEN 'no progress'
                ELSE 'no worker' END AS why,
           s.error->>'step_name' AS step, s.error->>'message' AS message,
           CASE WHEN s.status <> 'PARKED' AND s.owner IS NULL THEN s.wake_at
                ELSE s.updated_at END AS since,
           s.current_steps, s.owner AS worker_id, s.correlation_id, s.tenant
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
    CREATE OR REPLACE VIEW eventsaga.compensations AS
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
           coalesce(e.data->>'actor', r.data->>'actor') AS actor, s.tenant
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
    CREATE OR REPLACE VIEW eventsaga.workers_live AS
    SELECT w.worker_id, w.host, w.pid, w.definitions, w.started_at, w.heartbeat_at,
           w.lease_until - clock_timestamp() AS lease_left,
           (SELECT count(*) FROM eventsaga.sagas s WHERE s.owner = w.worker_id) AS sagas
      FROM eventsaga.workers w
     WHERE w.lease_until > clock_timestamp()
    """,
    # What was redacted keeps the digest that its hash was made of.
    """
    CREATE OR REPLACE VIEW eventsaga.chain AS
    SELECT e.saga_id, e.seq, e.type, e.occurred_at,
           coalesce(e.digest, eventsaga.digest(e.salt, e.data::text)) AS digest,
           e.hash, e.digest IS NOT NULL AS redacted,
           CASE WHEN e.digest IS NOT NULL
                THEN encode(sha256(convert_to(e.data::text, 'UTF8')), 'hex') END AS left_with
      FROM eventsaga.events e
    """,
    """
    CREATE OR REPLACE VIEW eventsaga.heads AS
    SELECT s.saga_id, s.last_seq AS seq, s.last_hash AS hash, s.tenant
      FROM eventsaga.sagas s
    """,
    "COMMENT ON VIEW eventsaga.saga_list IS 'one row a saga: where it stands'",
    "COMMENT ON VIEW eventsaga.history IS 'one row an event'",
    "COMMENT ON VIEW eventsaga.step_attempts IS 'one row an attempt of a step or compensation'",
    "COMMENT ON VIEW eventsaga.in_doubt IS 'effects that may have happened, and nobody knows'",
    "COMMENT ON VIEW eventsaga.stuck IS 'sagas that need a person or a worker'",
    "COMMENT ON VIEW eventsaga.compensations IS 'one row a step that was undone, and why'",
    "COMMENT ON VIEW eventsaga.workers_live IS 'workers whose lease has not ended'",
    "COMMENT ON VIEW eventsaga.chain IS 'one row an event: what its hash is made of'",
    "COMMENT ON VIEW eventsaga.heads IS 'one row a saga: its last event'",
)

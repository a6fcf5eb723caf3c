"""Which tables are there? They serve Alembic's comparison; hot statements are plain SQL."""

from typing import Any, Final, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType

SCHEMA: Final = "eventsaga"

metadata: Final = MetaData(schema=SCHEMA)

_INSTANT: Final = DateTime(timezone=True)


def metadata_in(schema: str) -> MetaData:
    """Return the tables as they are in a schema of another name."""
    other = MetaData(schema=schema)
    for table in metadata.sorted_tables:
        table.to_metadata(other, schema=schema)
    return other


class _Xid8(UserDefinedType[int]):
    """A transaction id that never wraps around; SQLAlchemy has no name for it."""

    cache_ok = True

    def get_col_spec(self, **_kw: object) -> str:
        return "xid8"


# Reflection looks names up here; without it Alembic warns that it cannot compare.
cast("dict[str, Any]", ischema_names)["xid8"] = _Xid8

events: Final = Table(
    "events",
    metadata,
    Column("saga_id", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema_version", SmallInteger, nullable=False),
    Column("data", JSON, nullable=True, comment="kept as the text that was hashed"),
    Column("occurred_at", _INSTANT, nullable=False),
    Column("recorded_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column("worker_id", Uuid, nullable=True),
    Column("txid", _Xid8(), nullable=False, server_default=text("pg_current_xact_id()")),
    Column("salt", LargeBinary, nullable=True),
    Column("hash", LargeBinary, nullable=False),
    Column(
        "digest",
        LargeBinary,
        comment="of salt and data as they were hashed; set where the data was redacted since",
    ),
    # The wall against two writers of one stream.
    PrimaryKeyConstraint("saga_id", "seq", name="events_pkey"),
    CheckConstraint("seq > 0", name="events_seq_check"),
    # For consumers, in the order of the feed: one range of it is one batch.
    Index("events_feed", "txid", "saga_id", "seq"),
    # For questions only; workers find events by their saga.
    Index("events_occurred", "occurred_at", postgresql_using="brin"),
    Index("events_undone", "saga_id", postgresql_where=text("type = 'StepCompensationStarted'")),
    Index(
        "events_in_doubt",
        "saga_id",
        postgresql_where=text(
            "type = 'StepInDoubt' OR type = 'StepFailed' AND data->>'effect_happened' = 'true'"
        ),
    ),
    comment="append-only: what happened to every saga, in order",
)

sagas: Final = Table(
    "sagas",
    metadata,
    Column("saga_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("current_steps", ARRAY(Text), nullable=False),
    Column("context", JSON, nullable=False, comment="as of the last change of status"),
    Column("error", JSON, nullable=True),
    Column("correlation_id", Text, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
    Column("updated_at", _INSTANT, nullable=False),
    # The lease is not part of the projection.
    Column("owner", Uuid, nullable=True, comment="worker that may append"),
    Column("wake_at", _INSTANT, nullable=True, comment="when an unowned saga is due"),
    Column("claims", Integer, nullable=False, server_default=text("0")),
    Column("parent_id", Uuid, nullable=True, comment="the saga of which this is a step"),
    Column("parent_step", Text, nullable=True),
    Column("tenant", Text, nullable=True, comment="whose it is; null for nobody in particular"),
    PrimaryKeyConstraint("saga_id", name="sagas_pkey"),
    # No index holds a column that changes at every step, so step updates stay HOT.
    # By name first: a claim takes a share of every name, so a flood of one starves no other.
    Index(
        "sagas_due",
        "name",
        "wake_at",
        postgresql_where=text("owner IS NULL AND wake_at IS NOT NULL"),
    ),
    Index("sagas_children", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
    Index(
        "sagas_unfinished",
        "status",
        "saga_id",
        postgresql_where=text("status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED')"),
    ),
    Index("sagas_owned", "owner", postgresql_where=text("owner IS NOT NULL")),
    comment="projection of events, one row a saga, and who may append",
)

workers: Final = Table(
    "workers",
    metadata,
    Column("worker_id", Uuid, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("definitions", ARRAY(Text), nullable=False),
    Column("started_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column("heartbeat_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column("lease_until", _INSTANT, nullable=False),
    Column(
        "process", Text, comment="tells the process from all others; null where that is not known"
    ),
    PrimaryKeyConstraint("worker_id", name="workers_pkey"),
    comment="one row per boot of a worker; its lease covers all sagas that it owns",
)

definitions: Final = Table(
    "definitions",
    metadata,
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("graph", JSON, nullable=False),
    Column("first_seen_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    PrimaryKeyConstraint("name", "version", "fingerprint", name="definitions_pkey"),
    comment="every shape of a saga that a worker has brought",
)

start_keys: Final = Table(
    "start_keys",
    metadata,
    Column("saga_name", Text, nullable=False),
    Column("key", Text, nullable=False, comment="behind its tenant and U+001F, if it has one"),
    Column("saga_id", Uuid, nullable=False),
    Column("input_digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("saga_name", "key", name="start_keys_pkey"),
    comment="which saga a start key stands for",
)

inbox: Final = Table(
    "inbox",
    metadata,
    Column("saga_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column(
        "answered_at",
        _INSTANT,
        nullable=True,
        comment="when the saga took it, or refused it; null while open",
    ),
    Column("refused", Text, nullable=True, comment="why the saga did not take it; null if it did"),
    PrimaryKeyConstraint("saga_id", "id", name="inbox_pkey"),
    Index("inbox_open", "saga_id", postgresql_where=text("answered_at IS NULL")),
    Index("inbox_answered", "answered_at", postgresql_where=text("answered_at IS NOT NULL")),
    comment="what others ask of a saga; its owner turns it into events",
)

limits: Final = Table(
    "limits",
    metadata,
    Column("key", Text, nullable=False),
    Column("free_at", _INSTANT, nullable=False, server_default=text("'-infinity'")),
    PrimaryKeyConstraint("key", name="limits_pkey"),
    comment="when a limited step may be tried again",
)

permits: Final = Table(
    "permits",
    metadata,
    Column("key", Text, nullable=False),
    Column("worker_id", Uuid, nullable=False),
    Column("held", Integer, nullable=False),
    PrimaryKeyConstraint("key", "worker_id", name="permits_pkey"),
    comment="how many attempts of a limited step a worker runs",
)

incarnations: Final = Table(
    "incarnations",
    metadata,
    Column("system_identifier", BigInteger, nullable=False),
    Column("timeline", Integer, nullable=False),
    Column("seen_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column("accepted_at", _INSTANT, comment="null: what was under way is held"),
    Column("accepted_by", Text),
    Column("reason", Text),
    Column(
        "numbered_at",
        _INSTANT,
        comment="since when txid of all events is in the order of this system",
    ),
    PrimaryKeyConstraint("system_identifier", "timeline", name="incarnations_pkey"),
    comment="every history that the database has had: it may have lost commits in between",
)

schedules: Final = Table(
    "schedules",
    metadata,
    Column("name", Text, nullable=False),
    Column("saga_name", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("next_at", _INSTANT, nullable=False),
    Column("worker_id", Uuid, nullable=False, comment="who planned it last"),
    PrimaryKeyConstraint("name", name="schedules_pkey"),
    comment="which slot of a schedule is started next",
)

feeds: Final = Table(
    "feeds",
    metadata,
    Column("consumer", Text, nullable=False),
    Column(
        "txid",
        _Xid8(),
        nullable=False,
        server_default=text("'0'"),
        comment="of the last event that it has read, as are saga_id and seq",
    ),
    Column(
        "saga_id",
        Uuid,
        nullable=False,
        server_default=text("'00000000-0000-0000-0000-000000000000'"),
    ),
    Column("seq", Integer, nullable=False, server_default=text("0")),
    Column("updated_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column("holder", Uuid, comment="who reads for it now"),
    Column("held_until", _INSTANT),
    PrimaryKeyConstraint("consumer", name="feeds_pkey"),
    comment="how far each consumer of the feed has read",
)

archived_sagas: Final = Table(
    "archived_sagas",
    metadata,
    Column("saga_id", Uuid, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("archived_at", _INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column("txid", _Xid8(), nullable=False, server_default=text("pg_current_xact_id()")),
    PrimaryKeyConstraint("saga_id", name="archived_sagas_pkey"),
    comment="which sagas were moved to an archive, and how their chains end",
)

archived_events: Final = Table(
    "archived_events",
    metadata,
    Column("saga_id", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema_version", SmallInteger, nullable=False),
    Column("data", JSON, nullable=True),
    Column("occurred_at", _INSTANT, nullable=False),
    Column("recorded_at", _INSTANT, nullable=False),
    Column("worker_id", Uuid, nullable=True),
    Column("salt", LargeBinary, nullable=True),
    Column("hash", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=True),
    PrimaryKeyConstraint("saga_id", "seq", name="archived_events_pkey"),
    comment="events of sagas that were archived into this database",
)

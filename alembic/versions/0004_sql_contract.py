"""The indexes of the SQL contract; its views and functions come with the newest revision.

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

_DOWNGRADE = (
    "DROP INDEX eventsaga.events_occurred, eventsaga.events_undone, eventsaga.events_in_doubt"
)


def upgrade() -> None:
    _execute(_INDEXES)


def downgrade() -> None:
    _execute((_DOWNGRADE,))


def _execute(statements: tuple[str, ...]) -> None:
    schema = context.get_context().opts["schema"]
    for statement in statements:
        op.execute(qualify(statement, schema))

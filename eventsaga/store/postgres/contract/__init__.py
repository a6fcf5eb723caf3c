"""What do others see? Views and functions that have no version of their own: the newest ones.

They hold no data, so they are put in place whole whenever the tables have reached the newest
revision, and taken away before the tables go back to an older one.
"""

from typing import Final

from eventsaga.store.postgres.contract.functions import DIGEST, FUNCTIONS
from eventsaga.store.postgres.contract.views import VIEWS

CREATE: Final = (DIGEST, *VIEWS, *FUNCTIONS)
"""Statements that put everything in place, or in the place of what was there."""

# Whatever an older release has left is named here for ever.
DROP: Final = (
    (
        "DROP VIEW IF EXISTS eventsaga.compensations, eventsaga.step_attempts,"
        " eventsaga.in_doubt, eventsaga.stuck, eventsaga.workers_live, eventsaga.history,"
        " eventsaga.saga_list, eventsaga.chain, eventsaga.heads"
    ),
    (
        "DROP FUNCTION IF EXISTS eventsaga.redact(uuid, text, text, text),"
        " eventsaga.redact_archived(uuid, text, text, text),"
        " eventsaga.without(text, json, text[], text[], text),"
        " eventsaga.without(json, text[], text[]),"
        " eventsaga.without(text, text[]), eventsaga.strings_at(json, text[]),"
        " eventsaga.verify_chain(uuid), eventsaga.context_at(uuid, timestamptz),"
        " eventsaga.context_at(uuid, integer), eventsaga.cancel_saga(uuid, text, uuid, text),"
        " eventsaga.signal_saga(uuid, text, jsonb, uuid, text),"
        " eventsaga.write_to(uuid, text, jsonb, uuid, text),"
        " eventsaga.start_saga(text, jsonb, text, text, integer), eventsaga.new_id(),"
        " eventsaga.tenant(),"
        " eventsaga.link(bytea, uuid, integer, text, timestamptz, bytea),"
        " eventsaga.link(bytea, uuid, integer, text, timestamptz, bytea, text),"
        " eventsaga.digest(bytea, text)"
    ),
)
"""Statements that take everything away, whatever of it is there."""

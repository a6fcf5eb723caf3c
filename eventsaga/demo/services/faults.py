"""How do I make a service fail? With magic values, like the test cards of payment providers.

A value is a field's prefix and a suffix: ``tok_`` is the payment token, ``cust_`` the customer
id (orders), ``prod_`` a product id (inventory), ``zip_`` the zip code of the address (shipping).

    tok_declined, cust_blocked, prod_out_of_stock, zip_undeliverable
                         refused for good: 402 for the card, 422 for the others
    …_slow               takes its time inside the transaction; a retry meanwhile gets 409
    …_lost_reply         the effect commits, the first reply never comes; later ones do
    …_cut_reply          the same, but the connection breaks in the middle of the first reply
    …_flaky              the first two requests of a key get 503 with Retry-After, and no effect
    …_undo_refused       done as usual, but undoing it gets 422
    …_undo_lost_reply    done as usual, but the first reply to its undo never comes
"""

from collections import Counter
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """One way to go wrong."""

    REFUSED = "refused"
    SLOW = "slow"
    LOST_REPLY = "lost_reply"
    CUT_REPLY = "cut_reply"
    FLAKY = "flaky"
    UNDO_REFUSED = "undo_refused"


FLAKY_TIMES: Final = 2

_REFUSALS: Final = frozenset(
    {"tok_declined", "cust_blocked", "prod_out_of_stock", "zip_undeliverable"}
)
_PREFIXES: Final = ("tok_", "cust_", "prod_", "zip_")
_DOING: Final = {
    "slow": Fault.SLOW,
    "lost_reply": Fault.LOST_REPLY,
    "cut_reply": Fault.CUT_REPLY,
    "flaky": Fault.FLAKY,
}
_UNDOING: Final = {"undo_refused": Fault.UNDO_REFUSED, "undo_lost_reply": Fault.LOST_REPLY}


def fault_of(value: str | None, *, undo: bool) -> Fault | None:
    """Return how a request with the magic *value* goes wrong; None if it goes well.

    Args:
        value: The token, customer id, product id or zip code; None if nothing is known of it.
        undo: Whether the request undoes something that was done with that value.
    """
    if value is None or not value.startswith(_PREFIXES):
        return None
    if not undo and value in _REFUSALS:
        return Fault.REFUSED
    suffix = value.partition("_")[2]
    return (_UNDOING if undo else _DOING).get(suffix)


class FlakyKeys:
    """Which keys have failed how often. In memory: a refusal is no effect to remember."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()

    def fails_now(self, key: str) -> bool:
        """Return whether this request of *key* is one of those that fail, and count it."""
        self._failures[key] += 1
        return self._failures[key] <= FLAKY_TIMES

"""What does the order saga call? Four HTTP services, each a process with tables of its own.

Orders, inventory, payments and shipping behave like services of other teams: they take an
``Idempotency-Key`` with every unsafe request, they refuse, they are slow, and they lose replies
after the effect (`faults` has the magic values). Each keeps a ledger of the effects that it
applied, so what really happened is one query (`audit`).

`running_services` starts all four; ``python -m eventsaga.demo.services payments`` starts one.
"""

from eventsaga.demo.services.audit import EFFECTS_APPLIED_TWICE, NET_BY_ORDER
from eventsaga.demo.services.launch import (
    SERVICE_NAMES,
    RunningService,
    RunningServices,
    ServiceStartError,
    running_services,
)

__all__ = [
    "EFFECTS_APPLIED_TWICE",
    "NET_BY_ORDER",
    "SERVICE_NAMES",
    "RunningService",
    "RunningServices",
    "ServiceStartError",
    "running_services",
]

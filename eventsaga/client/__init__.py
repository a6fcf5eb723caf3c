"""How do I use it? Start sagas, wait for them, look at them, and run a worker beside."""

from eventsaga.client.explain import Explanation
from eventsaga.client.feed import Batch, Feed
from eventsaga.client.handle import SagaHandle
from eventsaga.client.orchestrator import Orchestrator
from eventsaga.client.view import SagaError, SagaState

__all__ = [
    "Batch",
    "Explanation",
    "Feed",
    "Orchestrator",
    "SagaError",
    "SagaHandle",
    "SagaState",
]

"""How do I test my saga? In memory and in virtual time, with every fault there is."""

from eventsaga.testing.explore import Explored, InvariantBrokenError, explore
from eventsaga.testing.memory import Crash, MemoryStore
from eventsaga.testing.simulate import Plan, Simulated, Simulator
from eventsaga.testing.world import Answer, Effect, Fault, Outcomes

__all__ = [
    "Answer",
    "Crash",
    "Effect",
    "Explored",
    "Fault",
    "InvariantBrokenError",
    "MemoryStore",
    "Outcomes",
    "Plan",
    "Simulated",
    "Simulator",
    "explore",
]

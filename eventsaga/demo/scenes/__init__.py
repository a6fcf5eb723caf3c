"""What does the demo show? One module a scene; each plays it, and asks whether it was so."""

from collections.abc import Awaitable, Callable
from typing import Final

from eventsaga.demo.report import Scene
from eventsaga.demo.scenes.audit import answer_the_auditor
from eventsaga.demo.scenes.completed import complete_an_order
from eventsaga.demo.scenes.declined import decline_a_card
from eventsaga.demo.scenes.killed import kill_the_worker
from eventsaga.demo.scenes.lost import lose_a_reply
from eventsaga.demo.stage import Stage

Play = Callable[[Stage, Scene], Awaitable[None]]

SCENES: Final[tuple[tuple[str, Play], ...]] = (
    ("An order that completes", complete_an_order),
    ("A declined card: back in reverse order", decline_a_card),
    ("A payment that times out after it was charged", lose_a_reply),
    ("kill -9 of the worker in the middle of 50 orders", kill_the_worker),
    ("What an auditor asks, in plain SQL", answer_the_auditor),
)

__all__ = ["SCENES", "Play"]

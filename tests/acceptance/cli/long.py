"""A saga whose first step waits, and whose second says that it was reached."""

from pathlib import Path

from pydantic import BaseModel

from eventsaga import Saga, Step


class Journey(BaseModel):
    gate: str


def wait_at_the_gate(journey: Journey) -> None:
    print("waiting", flush=True)  # noqa: T201 - the tests wait for it
    Path(journey.gate).read_text(encoding="utf-8")


async def arrive(_journey: Journey) -> None:
    print("second", flush=True)  # noqa: T201 - the tests wait for it


saga = Saga(
    "long",
    context=Journey,
    steps=[Step("first", wait_at_the_gate), Step("second", arrive)],
    deadline=3600,
)

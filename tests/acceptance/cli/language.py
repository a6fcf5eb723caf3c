"""Sagas that wait, have children and many items, and give up until somebody mends them."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    ForEach,
    Parallel,
    PermanentError,
    Retry,
    Saga,
    Sleep,
    Step,
    WaitForSignal,
)

_ONCE = Retry(max_attempts=1)


class Delivery(BaseModel):
    order_id: str


class Approval(BaseModel):
    by: str


class Trip(BaseModel):
    """What a trip goes through.

    Attributes:
        broken: While there is such a file, the step `pay` and the compensation of `book`
            give up.
        declined: The step `pay` fails.
    """

    order_id: str = "1"
    broken: str | None = None
    declined: bool = False
    approval: Approval | None = None
    letters: int = 3
    payment: str | None = None


def _is_broken(trip: Trip) -> bool:
    return trip.broken is not None and Path(trip.broken).exists()


async def nothing(_context: Any) -> None:
    pass


async def unbook(trip: Trip) -> None:
    if _is_broken(trip):
        raise PermanentError("the hotel does not answer")


async def pay(trip: Trip) -> dict[str, str]:
    if trip.declined:
        raise PermanentError("card declined")
    if _is_broken(trip):
        raise TimeoutError("no answer from the bank")
    return {"payment": "p-1"}


def is_declined(trip: Trip) -> bool:
    return trip.declined


def order_of(trip: Trip) -> dict[str, str]:
    return {"order_id": trip.order_id}


def same_trip(trip: Trip) -> Trip:
    return trip


def letters_of(trip: Trip) -> range:
    return range(trip.letters)


delivery = Saga(
    "delivery",
    context=Delivery,
    steps=[Step("send", nothing, compensate=nothing), Sleep("rest", 0.01)],
)
approved = Saga(
    "approved", context=Trip, steps=[WaitForSignal("approval", Approval), Step("book", nothing)]
)
parent = Saga(
    "parent",
    context=Trip,
    steps=[
        Step("book", nothing, compensate=nothing),
        ChildSaga("deliver", delivery, order_of),
    ],
)
parked = Saga(
    "parked",
    context=Trip,
    steps=[
        Step("book", nothing, compensate=unbook, compensate_retry=_ONCE),
        Step("pay", pay, on_doubt="park", retry=_ONCE),
    ],
)
letters = Saga(
    "letters",
    context=Trip,
    steps=[ForEach("letters", letters_of, Step("one", nothing))],
)
every = Saga(
    "every",
    context=Trip,
    steps=[
        Step("book", nothing, compensate=nothing),
        Parallel(
            "both", [Step("pay", pay), [Sleep("nap", 5), WaitForSignal("approval", Approval)]]
        ),
        Step("mail", nothing, when=is_declined),
        Step("confirm", nothing, pivot=True),
    ],
)

holding = Saga("holding", context=Trip, steps=[ChildSaga("hold", approved, same_trip)])

sagas = [approved, parent, parked, letters, every, holding]

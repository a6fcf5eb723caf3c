"""Where can a fault be put? At named places of the write path, by a variable or by a test.

While nothing is armed, a place costs one look at a variable::

    if failpoints.armed:
        await failpoints.reach("before_claim")

`armed_by` takes the text that ``EVENTSAGA_FAILPOINTS`` has too: points, separated by commas,
each ``place[text]:action@n``. ``[text]`` (optional) keeps to places whose detail holds the
text, such as a step's name; ``@n`` (optional) to the n-th time, counting from 1; without it
the point acts each time. ``after_intent_commit:kill9@3`` kills the process right after the
third commit that says what is about to be done.
"""

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from eventsaga.errors import SettingsError

VARIABLE: Final = "EVENTSAGA_FAILPOINTS"

PLACES: Final = frozenset(
    {
        # One transition of a saga: its events and its row. The second and the third are the same
        # commit, if it says that something is about to be done, or how something ended.
        *("before_append", "during_append", "after_append"),
        *("before_intent_commit", "during_intent_commit", "after_intent_commit"),
        *("before_result_commit", "during_result_commit", "after_result_commit"),
        *("before_read_back", "after_read_back"),
        # The birth of a saga, by a client, a parent or a schedule.
        *("before_start", "during_start", "after_start"),
        # The rows of a transactional step together with its result.
        *("before_transaction", "before_transaction_commit", "during_transaction_commit"),
        "after_transaction_commit",
        # An attempt of a step, its compensation or its verification; a hook.
        *("before_effect", "after_effect", "before_hook", "after_hook"),
        # The life of a worker.
        *("before_register_worker", "after_register_worker", "before_renew", "after_renew"),
        *("before_release", "after_release", "before_give_up", "after_give_up"),
        # Taking sagas over. `after_claim_commit` is between the claim and the first look at what
        # was claimed.
        *("before_claim", "after_claim_commit", "after_claim"),
        *("before_load_owned", "after_load_owned", "before_recovery", "after_recovery"),
        # Requests, permits, slots.
        *("before_read_mail", "after_read_mail", "before_post", "after_post"),
        *("before_dismiss_mail", "after_dismiss_mail"),
        *("before_acquire", "after_acquire", "before_release_permits", "after_release_permits"),
        # A batch of an archive: written and synced, then removed from the tables.
        *("before_archive_write", "during_archive_write", "after_archive_write"),
        *("before_archive_remove", "after_archive_remove"),
        *("before_start_slot", "after_start_slot", "before_skip_slots", "after_skip_slots"),
    }
)

armed = False
"""Whether there is anything to do at any place. Look here before calling `reach`."""

_POINT: Final = re.compile(
    r"(?P<place>[a-z_]+|\*)(\[(?P<text>[^\]]*)\])?:(?P<action>[a-z0-9]+)"
    r"(=(?P<value>[^,@]+))?(@(?P<at>[1-9][0-9]*))?"
)
# Long enough for what was handed to the event loop to be sent, not for an answer to be acted on.
_UNDER_WAY_SECONDS: Final = 0.0005

_Result = TypeVar("_Result")

Action = Callable[[str, str], Awaitable[None] | None]
"""What a point does: called with the place and its detail."""


@dataclass(slots=True, eq=False)
class _Point:
    place: str
    text: str
    at: int | None
    action: Action
    reached: int = 0

    def acts(self, places: Sequence[str], text: str) -> bool:
        if (self.place != "*" and self.place not in places) or self.text not in text:
            return False
        self.reached += 1
        return self.at in {None, self.reached}


_points: list[_Point] = []


async def reach(*places: str, text: str = "") -> None:
    """Act at a place.

    Args:
        *places: Its names, the general one first.
        text: What happens there, such as the events that are committed.
    """
    for point in [point for point in _points if point.acts(places, text)]:
        done = point.action(places[0], text)
        if done is not None:
            await done


async def around(
    work: Coroutine[Any, Any, _Result], *names: str, text: str, cut: Callable[[], None]
) -> _Result:
    """Act before *work*, while it waits for its answer, and after it.

    Args:
        work: Sends something and waits for the answer.
        *names: What it is, the general name first, without ``before_`` and the like.
        text: What is sent.
        cut: Breaks the connection: what an ``error`` is while the answer is under way.
    """
    try:
        await reach(*(f"before_{name}" for name in names), text=text)
    except BaseException:
        work.close()
        raise
    with _under_way([f"during_{name}" for name in names], text, cut):
        result = await work
    await reach(*(f"after_{name}" for name in names), text=text)
    return result


@contextmanager
def _under_way(places: Sequence[str], text: str, cut: Callable[[], None]) -> Generator[None]:

    def strike(point: _Point) -> None:
        try:
            point.action(places[0], text)
        except ConnectionError:
            cut()

    loop = asyncio.get_running_loop()
    timers = [
        loop.call_later(_UNDER_WAY_SECONDS, strike, point)
        for point in _points
        if point.acts(places, text)
    ]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def arm_from_environment() -> Sequence[str]:
    """Arm what ``EVENTSAGA_FAILPOINTS`` names, once a process, and return it.

    Raises:
        SettingsError: If it cannot be read.
    """
    text = os.environ.get(VARIABLE, "")
    if text and text not in _from_environment:
        _from_environment.append(text)
        _arm(_parsed(text))
    return _from_environment


_from_environment: list[str] = []


@contextmanager
def armed_by(points: str) -> Generator[None]:
    """Arm *points* for a while; see this module for how they are written.

    Raises:
        SettingsError: If they cannot be read.
    """
    with _armed(_parsed(points)):
        yield


@contextmanager
def calling(
    place: str, action: Action, *, text: str = "", at: int | None = None
) -> Generator[None]:
    """Call *action* at *place*, with its name and detail; what it raises is raised there.

    Raises:
        SettingsError: If there is no such place.
    """
    with _armed([_Point(_known(place), text, at, action)]):
        yield


@dataclass(slots=True)
class Hold:
    """Somebody who waits at a place.

    Attributes:
        reached: Set when somebody is there.
        let_go: Set it, and everybody goes on.
        text: What was about to happen there.
    """

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    text: str = ""

    async def _wait(self, _place: str, text: str) -> None:
        self.text = text
        self.reached.set()
        await self.let_go.wait()


@contextmanager
def holding(place: str, *, text: str = "", at: int | None = 1) -> Generator[Hold]:
    """Keep whoever comes to *place* waiting, so that a test can do something else first.

    Raises:
        SettingsError: If there is no such place.
    """
    hold = Hold()
    with calling(place, hold._wait, text=text, at=at):  # noqa: SLF001 - it is ours
        try:
            yield hold
        finally:
            hold.let_go.set()


@contextmanager
def _armed(points: list[_Point]) -> Generator[None]:
    _arm(points)
    try:
        yield
    finally:
        for point in points:
            _points.remove(point)
        _arm([])


def _arm(points: list[_Point]) -> None:
    global armed  # noqa: PLW0603 - one look at one variable is what makes it free
    _points.extend(points)
    armed = bool(_points)


def _known(place: str) -> str:
    if place != "*" and place not in PLACES:
        raise SettingsError(f"{place!r} is no failpoint; there are {', '.join(sorted(PLACES))}")
    return place


def _parsed(text: str) -> list[_Point]:
    return [_point(part.strip()) for part in text.split(",") if part.strip()]


def _point(text: str) -> _Point:
    match = _POINT.fullmatch(text)
    if match is None:
        raise SettingsError(
            f"{VARIABLE}: {text!r} is not place[text]:action@n, such as after_append:kill9@3"
        )
    name, value = match["action"], match["value"]
    if name not in _ACTIONS:
        raise SettingsError(f"{VARIABLE}: {name!r} is no action; there are {', '.join(_ACTIONS)}")
    at = None if match["at"] is None else int(match["at"])
    try:
        action = _ACTIONS[name](value)
    except (TypeError, ValueError):
        raise SettingsError(f"{VARIABLE}: {text!r} has no value that fits {name}") from None
    return _Point(_known(match["place"]), match["text"] or "", at, action)


# -- what a point can do --------------------------------------------------------------------


def _signal(number: int) -> Callable[[str | None], Action]:
    def made(_value: str | None) -> Action:
        return lambda _place, _text: os.kill(os.getpid(), number)

    return made


def _exit(value: str | None) -> Action:
    # Without flushing or closing anything: as if memory had run out.
    code = 137 if value is None else int(value)
    return lambda _place, _text: os._exit(code)


def _error(_value: str | None) -> Action:
    def broken(place: str, _text: str) -> None:
        raise ConnectionResetError(f"failpoint {place}")

    return broken


def _sleep(value: str | None) -> Action:
    seconds = float(value or "")
    return lambda _place, _text: asyncio.sleep(seconds)


def _record(value: str | None) -> Action:
    if value is None:
        raise TypeError
    path = Path(value)

    def written(place: str, text: str) -> None:
        line = json.dumps({"place": place, "text": text, "pid": os.getpid()}) + "\n"
        # One write of less than a page: lines of several processes do not mix.
        with path.open("a", encoding="utf-8") as file:
            file.write(line)

    return written


_ACTIONS: Final[dict[str, Callable[[str | None], Action]]] = {
    "kill9": _signal(signal.SIGKILL),
    "stop": _signal(signal.SIGSTOP),
    "segv": _signal(signal.SIGSEGV),
    "exit": _exit,
    "error": _error,
    "sleep": _sleep,
    "record": _record,
}

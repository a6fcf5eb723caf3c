"""What time is it? The database's time; no worker's own clock is believed.

Each answer of a heartbeat sets the clock anew; in between it is carried on by the
monotonic clock of the process, which no administrator can set.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and how much has passed."""

    def now(self) -> datetime:
        """Return the instant, aware and in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only ever grow."""
        ...


class DatabaseClock:
    """The database's clock as this process knows it.

    Before the first answer it is the process's own; nothing is decided by then.
    """

    def __init__(self) -> None:
        self._instant = datetime.now(UTC)
        self._at = time.monotonic()

    def align(self, answered: datetime, *, sent: float, received: float) -> None:
        """Set the clock by an answer of the database.

        Args:
            answered: The database's clock when it answered.
            sent: `monotonic` before the question was sent.
            received: `monotonic` after the answer came. The clock is slow by at most the
                time between the two, and never fast: no timer may fire early.
        """
        assert sent <= received, "an answer comes after its question"
        self._instant = answered
        self._at = received

    def now(self) -> datetime:
        """Return the database's time, as well as it is known."""
        return self._instant + timedelta(seconds=time.monotonic() - self._at)

    def monotonic(self) -> float:
        """Return seconds that only ever grow."""
        return time.monotonic()

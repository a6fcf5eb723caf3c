"""How much of a step may go on at once? A limit that holds over all workers."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limit:
    """How often, and how many at the same time, over all workers.

    Attributes:
        key: Name of the limit; whoever has the same key shares it.
        concurrency: Most attempts at the same time; None for no limit.
        interval: Between two attempts on average; None for no limit.
        burst: So many may begin at once after a pause. At least 1.
    """

    key: str
    concurrency: int | None = None
    interval: timedelta | None = None
    burst: int = 1

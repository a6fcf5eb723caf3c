"""Does my saga survive? Real workers are killed at each of its commits, and it is judged.

`drill` does it all. One clean run teaches where the saga commits and calls others
(`boundary`), `plan` puts faults there, `run` plays them with worker processes (`process`,
`worker`) on databases of their own (`scratch`), `recorder` counts what reached the
participants, and `judge` says what is wrong.
"""

from eventsaga.drill.boundary import Boundary
from eventsaga.drill.drill import JOBS, TIMEOUT_SECONDS, Options, Progress, drill
from eventsaga.drill.errors import DrillError
from eventsaga.drill.judge import Finding
from eventsaga.drill.junit import junit
from eventsaga.drill.plan import Case, Mode
from eventsaga.drill.recorder import Keyed, Sent, keyed
from eventsaga.drill.report import Outcome, Report, Result, described
from eventsaga.drill.scratch import Setup
from eventsaga.drill.target import Check, Ended

__all__ = [
    "JOBS",
    "TIMEOUT_SECONDS",
    "Boundary",
    "Case",
    "Check",
    "DrillError",
    "Ended",
    "Finding",
    "Keyed",
    "Mode",
    "Options",
    "Outcome",
    "Progress",
    "Report",
    "Result",
    "Sent",
    "Setup",
    "described",
    "drill",
    "junit",
    "keyed",
]

"""How are the scenes played? One after the other on one stage; then it is told how they went."""

import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from eventsaga.demo.around import After, commands_for, look_around
from eventsaga.demo.checks import Check
from eventsaga.demo.crew import LEASE_ENVIRONMENT, WorkerEndedError
from eventsaga.demo.place import scenes_place
from eventsaga.demo.report import Scene, write_json
from eventsaga.demo.scenes import SCENES, Play
from eventsaga.demo.stage import Stage, open_stage
from eventsaga.embedded import EmbeddedPostgres

_UNFINISHED: Final = """
SELECT count(*) FROM eventsaga.sagas WHERE owner IS NOT NULL OR wake_at IS NOT NULL
"""


async def play_scenes(
    postgres: EmbeddedPostgres, console: Console, *, as_json: bool, after: After
) -> int:
    """Play all scenes and return 0 if everything came out as it must, 1 if not.

    Args:
        postgres: The server.
        console: Where people read.
        as_json: Whether one JSON document goes to standard output.
        after: What happens then.
    """
    began = time.monotonic()
    async with _opened(postgres, console) as stage:
        scenes: list[Scene] = []
        for number, (title, play) in enumerate(SCENES, 1):
            scene = Scene(number, title, console)
            scenes.append(scene)
            if not await _play(stage, scene, play):
                break
        seconds = time.monotonic() - began
        ok = len(scenes) == len(SCENES) and all(scene.ok for scene in scenes)
        _tell(console, scenes, seconds)
        if as_json:
            write_json(_document(stage, scenes, seconds, ok=ok))
        shown = next((scene.sagas[0] for scene in scenes[2:] if scene.sagas), None)
        await look_around(console, stage.place, shown, after)
    return 0 if ok else 1


@contextlib.asynccontextmanager
async def _opened(postgres: EmbeddedPostgres, console: Console) -> AsyncGenerator[Stage]:
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        with console.status("creating tables, starting four services and a worker…"):
            place = await stack.enter_async_context(scenes_place(postgres))
            stage = await stack.enter_async_context(open_stage(place, console))
        seconds = time.monotonic() - began
        console.print(
            f"Four services and worker process {stage.worker.pid} run on database "
            f"{place.database!r} ({seconds:.1f} s)."
        )
        lease, heartbeat = (LEASE_ENVIRONMENT[f"EVENTSAGA_{n}"] for n in ("LEASE", "HEARTBEAT"))
        console.print(
            f"The worker's lease is {lease} s and its heartbeat {heartbeat} s, not 10 s and 2 s as "
            "by default, for machines where nobody can see that a process is gone but by its lease."
        )
        unfinished = await stage.db.fetchval(_UNFINISHED)
        if unfinished:
            console.print(f"{unfinished} orders of an interrupted run are being finished as well.")
        yield stage


async def _play(stage: Stage, scene: Scene, play: Play) -> bool:
    """Play one scene and return whether the next one makes sense."""
    stage.console.print()
    stage.console.print(Text(f"{scene.number} · {scene.title}", "bold"))
    began = time.monotonic()
    try:
        await play(stage, scene)
    except (TimeoutError, WorkerEndedError) as error:
        reason = str(error) or "it takes too long"
        scene.check(Check("the scene comes to its end", "yes", f"no: {reason}"))
        return False
    finally:
        scene.seconds = time.monotonic() - began
    return True


def _tell(console: Console, scenes: list[Scene], seconds: float) -> None:
    checks = [check for scene in scenes for check in scene.checks]
    good = sum(check.ok for check in checks)
    console.print()
    for scene in scenes:
        mark, style = ("✓", "green") if scene.ok else ("✗", "bold red")
        line = f"{mark} {scene.number} · {scene.title}"
        console.print(Text.assemble((line.ljust(64), style), f"{scene.seconds:5.1f} s"))
    missing = len(SCENES) - len(scenes)
    if missing:
        console.print(Text(f"✗ {missing} scenes were not played", "bold red"))
    console.print(f"{good} of {len(checks)} checks passed in {seconds:.1f} s.")


def _document(stage: Stage, scenes: list[Scene], seconds: float, *, ok: bool) -> dict[str, Any]:
    shown = next((scene.sagas[0] for scene in scenes if scene.sagas), None)
    return {
        "ok": ok,
        "run": stage.run,
        "seconds": round(seconds, 3),
        "database_url": stage.place.url,
        "look_around": commands_for(stage.place, shown),
        "scenes": [scene.to_json() for scene in scenes],
    }

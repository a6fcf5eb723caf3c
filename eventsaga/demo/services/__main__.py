"""How is one service started by hand? ``python -m eventsaga.demo.services payments``."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from eventsaga.demo.services.serve import SERVICES, Options, serve


def parse(arguments: Sequence[str]) -> Options:
    """Return the options of one service; exit with code 2 if they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m eventsaga.demo.services",
        description="Serve one of the demo services until SIGTERM, or until its parent dies.",
        epilog="example: python -m eventsaga.demo.services payments --port 8003",
    )
    parser.add_argument("service", choices=sorted(SERVICES))
    parser.add_argument(
        "--database",
        default=os.environ.get("EVENTSAGA_DATABASE_URL"),
        help="PostgreSQL URL (default: $EVENTSAGA_DATABASE_URL)",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one (default)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to each request")
    parser.add_argument("--slow", type=float, default=3.0, help="seconds a …_slow request takes")
    parser.add_argument("--parent-pid", type=int, default=os.getppid(), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not given.database:
        parser.error("name a database with --database or EVENTSAGA_DATABASE_URL")
    return Options(
        service=SERVICES[given.service],
        # SQLAlchemy's spelling is understood too.
        database_url=given.database.replace("postgresql+asyncpg://", "postgresql://", 1),
        host=given.host,
        port=given.port,
        latency=timedelta(seconds=given.latency),
        slow=timedelta(seconds=given.slow),
        parent_pid=given.parent_pid,
    )


def main() -> int:
    """Serve; return 1, and say why on stderr, if that cannot be."""
    options = parse(sys.argv[1:])
    try:
        asyncio.run(serve(options))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        print(f"{options.service.name}: cannot serve: {reason}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

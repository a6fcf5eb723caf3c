"""Do the examples run, and print what their readers expect?"""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def run(example: str, database: str) -> list[str]:
    """Return what *example* prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{example}"],
        cwd=_ROOT,
        env={**os.environ, "EVENTSAGA_DATABASE_URL": database},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_loan_is_paid_out_or_goes_back(database: str) -> None:
    assert run("approval", database) == [
        "  100 reserved",
        "  100 paid out, approved by ada",
        "COMPLETED",
        "  200 reserved",
        "  200 released",
        "COMPENSATED",
    ]


def test_products_are_imported_all_or_none(database: str) -> None:
    printed = run("import_products", database)

    assert printed[0] == "100 products: COMPLETED"
    assert printed[1] == "3 products: COMPENSATED"
    assert "has no name" in printed[2]
    assert printed[3] == "100 rows"

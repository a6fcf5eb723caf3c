"""How is a migration run? From a checkout by `alembic`, and from a wheel that has all it needs."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
ALEMBIC: Final = str(Path(sys.executable).with_name("alembic"))


def run(
    *command: str, cwd: Path = ROOT, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSAGA_")}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_alembic_in_a_checkout_takes_the_url_of_the_environment(empty_database: str) -> None:
    done = run(ALEMBIC, "upgrade", "head", environ={"EVENTSAGA_DATABASE_URL": empty_database})
    assert done.returncode == 0, done.stderr

    check = run(ALEMBIC, "check", environ={"EVENTSAGA_DATABASE_URL": empty_database})
    assert check.returncode == 0, check.stderr


def test_alembic_in_a_checkout_takes_url_and_schema_as_arguments(empty_database: str) -> None:
    arguments = ("-x", f"url={empty_database}", "-x", "schema=orders_sagas")

    done = run(ALEMBIC, *arguments, "upgrade", "head")
    assert done.returncode == 0, done.stderr

    current = run(ALEMBIC, *arguments, "current")
    assert "(head)" in current.stdout


def test_alembic_without_a_url_says_what_to_do() -> None:
    done = run(ALEMBIC, "upgrade", "head")

    assert done.returncode != 0
    assert "EVENTSAGA_DATABASE_URL" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("schema", ['a"; DROP SCHEMA public; --', "x" * 51])
def test_alembic_takes_no_schema_that_would_need_quoting(empty_database: str, schema: str) -> None:
    done = run(ALEMBIC, "-x", f"url={empty_database}", "-x", f"schema={schema}", "upgrade", "head")

    assert done.returncode != 0
    assert "lower-case letters" in done.stdout
    assert not done.stderr


# -- the wheel --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that a release would be."""
    target = tmp_path_factory.mktemp("wheel")
    if find_spec("hatchling"):
        command = f"hatchling build --target wheel --directory {target}"
    else:
        command = f"pip wheel --quiet --no-deps --wheel-dir {target} ."
    done = run(sys.executable, "-m", *command.split())
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds what pip would install."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_brings_migrations_and_type_hints_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    scripts = {f"eventsaga/_alembic/versions/{path.name}" for path in _versions()}

    assert scripts
    assert {"eventsaga/py.typed", "eventsaga/_alembic/env.py", *scripts} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"eventsaga"}
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def _versions() -> list[Path]:
    return sorted((ROOT / "alembic" / "versions").glob("*.py"))


_MIGRATE: Final = """
import sys
from eventsaga.store.postgres import migrate
print(migrate.script_directory())
migrate.upgrade(sys.argv[1], schema="eventsaga")
print(migrate.newest_revision())
"""


def test_an_installed_package_migrates_by_its_own_scripts(
    installed: Path, empty_database: str
) -> None:
    done = run(
        sys.executable,
        "-c",
        _MIGRATE,
        empty_database,
        cwd=installed,
        environ={"PYTHONPATH": str(installed)},
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(installed / "eventsaga" / "_alembic")

"""What can go wrong with the embedded PostgreSQL? Each message says what to do."""

from pathlib import Path

from eventsaga.errors import EventSagaError


class EmbeddedPostgresError(EventSagaError):
    """The embedded PostgreSQL cannot be used; the message says what to do."""


class IncompatibleDataDirectoryError(EmbeddedPostgresError):
    """The directory was written by another major version of PostgreSQL; it was not touched.

    Attributes:
        data_dir: The directory.
        found: The major version that wrote it.
        needed: The major version that is here.
    """

    def __init__(self, data_dir: Path, found: str, needed: str) -> None:
        super().__init__(data_dir, found, needed)
        self.data_dir = data_dir
        self.found = found
        self.needed = needed

    def __str__(self) -> str:
        return (
            f"{self.data_dir} was written by PostgreSQL {self.found}, but this is {self.needed}. "
            f"To keep the data: run pg_dumpall of version {self.found} on it, name an empty "
            "directory here, and load the dump into that with psql. "
            "To begin anew: delete the directory or name another one."
        )

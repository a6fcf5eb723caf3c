"""What can go wrong?

Every error of the library derives from `EventSagaError` and is grouped by what its
receiver does about it: raise it inside a step, fix the call, or fix the deployment.
Data stands in attributes, text in ``__str__``; arguments match, so all of them pickle.
"""

from datetime import timedelta
from typing import Self
from uuid import UUID


class EventSagaError(Exception):
    """Base of all errors raised by eventsaga.

    Catch it where the same is done about all of them, such as at the edge of a service.
    """


# -- raised by users inside a step ----------------------------------------------------


class PermanentError(EventSagaError):
    """The step failed for good: it did not happen and trying again is useless.

    Raise it inside a step. The step is not retried and, because it definitely did not
    happen, it is not compensated either; the steps before it are.
    """


class TemporaryError(EventSagaError):
    """The step did not happen this time; another attempt may succeed.

    Raise it inside a step to say when the next attempt makes sense.

    Attributes:
        retry_after: Wait this long instead of the policy's backoff. A number counts
            seconds; None leaves the wait to the policy.
    """

    def __init__(self, message: str = "", retry_after: timedelta | float | None = None) -> None:
        super().__init__(message, retry_after)
        self.message = message
        self.retry_after = (
            timedelta(seconds=retry_after) if isinstance(retry_after, int | float) else retry_after
        )

    def __str__(self) -> str:
        return self.message


class InDoubtError(EventSagaError):
    """The effect may have happened, but nobody knows.

    Raise it inside a step when a request was sent and no answer came. The step is tried
    again with the same idempotency key; if it never gets a definite answer it is
    compensated with ``outcome == "unknown"``.
    """


# -- fix the call -----------------------------------------------------------------------


class DefinitionError(EventSagaError):
    """A saga is written in a way that cannot work; the message names the node.

    Raised where a saga or a schedule is built, where an orchestrator is given two that have
    the same name, and where something is used that was not asked for: a worker, or the
    transaction of a step. Correct the code.
    """


class IllegalCommandError(EventSagaError):
    """The saga's state does not allow this; nothing was recorded.

    Raised by what is asked of a saga that is there: `signal`, `cancel`, `retry` and the other
    verbs. Ask for something that is legal, or look again: it may have gone on meanwhile.

    Attributes:
        command: What was asked for.
        reason: Why it is refused.
        legal: What could be asked instead.
    """

    def __init__(self, command: str, reason: str, legal: tuple[str, ...] = ()) -> None:
        super().__init__(command, reason, legal)
        self.command = command
        self.reason = reason
        self.legal = legal

    def __str__(self) -> str:
        instead = f" (legal now: {', '.join(self.legal)})" if self.legal else ""
        return f"cannot {self.command}: {self.reason}{instead}"

    @classmethod
    def read(cls, command: str, text: str) -> Self:
        """Return the error that was written down as *text*; of *command* if it does not say."""
        if text.startswith("cannot "):
            command, _, text = text.removeprefix("cannot ").partition(": ")
        reason, _, legal = text.partition(" (legal now: ")
        return cls(command, reason, tuple(filter(None, legal.removesuffix(")").split(", "))))


class PayloadError(EventSagaError):
    """A value cannot be stored as JSON within the limits; nothing was written.

    Raised for what does not fit its model, too: by `start` for a context, by `signal` for a
    payload, by the verbs for a result or a reason. Correct the value. What a step returns is
    checked alike, and fails the step.

    Attributes:
        path: Where in the value, such as ``$.items[3].price``.
        reason: What is wrong there.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class KeyConflictError(EventSagaError):
    """The start key was already used with a different input; no saga was started.

    Raised by `start`; by `start_many` within an `ExceptionGroup`. Use a key that stands for
    this input only, or look at the saga that has it.

    Attributes:
        saga_name: The definition.
        key: The key that is taken.
        saga_id: The saga that the key started.
    """

    def __init__(self, saga_name: str, key: str, saga_id: UUID) -> None:
        super().__init__(saga_name, key, saga_id)
        self.saga_name = saga_name
        self.key = key
        self.saga_id = saga_id

    def __str__(self) -> str:
        return (
            f"key {self.key!r} of saga {self.saga_name!r} already started {self.saga_id} "
            "with a different input"
        )


class NoSuchMomentError(EventSagaError):
    """The saga had not begun then, or has no event of that number.

    Raised by `Orchestrator.state_at`. The history says when what happened.

    Attributes:
        saga_id: The saga.
        reason: What moments it has.
    """

    def __init__(self, saga_id: UUID, reason: str) -> None:
        super().__init__(saga_id, reason)
        self.saga_id = saga_id
        self.reason = reason

    def __str__(self) -> str:
        return f"saga {self.saga_id} has no such moment: {self.reason}"


class SagaNotFoundError(EventSagaError):
    """There is no saga with this id.

    Raised by everything that takes the id of a saga. Check the id, the database and the
    schema; a saga that was started in a transaction is there when that has committed.

    Attributes:
        saga_id: The id.
    """

    def __init__(self, saga_id: UUID) -> None:
        super().__init__(saga_id)
        self.saga_id = saga_id

    def __str__(self) -> str:
        return f"there is no saga {self.saga_id}"


class UnknownSagaError(EventSagaError):
    """No definition of this name is registered with the orchestrator.

    Raised by `start`, and by what is asked of a saga whose definition is not stored either.
    Give the saga to the `Orchestrator`.

    Attributes:
        saga_name: The name that was asked for.
        known: The registered names.
    """

    def __init__(self, saga_name: str, known: tuple[str, ...]) -> None:
        super().__init__(saga_name, known)
        self.saga_name = saga_name
        self.known = known

    def __str__(self) -> str:
        known = ", ".join(sorted(self.known)) or "none"
        return f"no saga {self.saga_name!r} is registered (registered: {known})"


class TransactionMisusedError(EventSagaError):
    """A step, or a participant, ended the transaction that it was lent.

    Raised when a transactional step has returned, or a request to a participant is answered;
    nothing of it is kept. Either may flush, use savepoints, and commit its session, which
    releases a savepoint. The transaction itself is committed together with the result.
    """


class FeedTakenError(EventSagaError):
    """Somebody else reads for this consumer; nothing was taken, or nothing noted.

    Raised by `Feed.take`, and by `Batch.commit` if the batch was taken by somebody else
    meanwhile: it is delivered there again. Wait, or read under another name.

    Attributes:
        consumer: Its name.
    """

    def __init__(self, consumer: str) -> None:
        super().__init__(consumer)
        self.consumer = consumer

    def __str__(self) -> str:
        return f"somebody else reads the feed for {self.consumer!r}"


class ArchiveError(EventSagaError):
    """An archive cannot be written, or holds what must not be believed.

    Raised by `archive` before anything is removed, and by `import` before anything is written.
    The reason says what to do; ``eventsaga verify FILE`` says more of what a file holds.

    Attributes:
        archive: The file or the table.
        reason: What is wrong.
    """

    def __init__(self, archive: str, reason: str) -> None:
        super().__init__(archive, reason)
        self.archive = archive
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.archive}: {self.reason}"


# -- fix the deployment -----------------------------------------------------------------


class SettingsError(EventSagaError):
    """A setting has a value that cannot work; the message names it.

    Raised where settings or failpoints are read. Correct the variable or the argument.
    """


class DatabaseUnavailableError(EventSagaError):
    """PostgreSQL cannot be reached; the message holds no password.

    Raised on opening an orchestrator, and by what looks at sagas or asks something of them;
    sagas that run wait, and go on. Call again later: with a key, a start is done once, and
    with an id, a signal is heard once.
    """


class SchemaOutdatedError(EventSagaError):
    """The database has another schema revision than this version of eventsaga needs.

    Raised on opening an orchestrator. Run ``eventsaga db upgrade``; if the database is ahead,
    upgrade eventsaga.

    Attributes:
        found: Revision in the database; None if the schema was never created.
        needed: Revision that this code needs.
    """

    def __init__(self, found: str | None, needed: str) -> None:
        super().__init__(found, needed)
        self.found = found
        self.needed = needed

    def __str__(self) -> str:
        found = f"is at revision {self.found}" if self.found else "has no eventsaga schema"
        return f"the database {found}, revision {self.needed} is needed: run `eventsaga db upgrade`"


class FeedNumberingError(EventSagaError):
    """The events were restored from another system: their transaction ids mean nothing here.

    Raised by `Feed.take`, before anything is skipped. Run ``eventsaga recover --renumber``
    once; consumers go on where they were, and may see again what was recorded about the time
    of the restore.
    """

    def __str__(self) -> str:
        return (
            "the events come from another PostgreSQL system, and their transaction ids are not "
            "in order here: run `eventsaga recover --renumber`"
        )


class DefinitionChangedError(EventSagaError):
    """A definition was changed under the same version while its sagas are unfinished.

    Raised on opening an orchestrator with a worker. Give the new one a higher version, and
    register the old one beside it until its sagas have ended; ``eventsaga check`` says so
    before a deploy.
    """


class UnknownEventError(EventSagaError):
    """A stored event has a name or schema version that this code does not know.

    Raised by everything that reads the history. A newer eventsaga wrote it: upgrade this
    process before it touches the saga.

    Attributes:
        stored_type: The name.
        schema_version: The version beside it.
    """

    def __init__(self, stored_type: str, schema_version: int) -> None:
        super().__init__(stored_type, schema_version)
        self.stored_type = stored_type
        self.schema_version = schema_version

    def __str__(self) -> str:
        return f"event {self.stored_type!r} with schema version {self.schema_version} is not known"


class SealedError(EventSagaError):
    """What is stored is sealed, and cannot be opened here.

    Its key is not there, or not any more, or somebody has changed it. A worker leaves such a
    saga to others; whoever only looks sees it sealed.
    """


class AnchorError(EventSagaError):
    """An anchor, or the key for it, cannot be read, written or believed.

    Raised by `eventsaga anchor` and `eventsaga verify --anchor`. Nothing was written.
    """


class CorruptHistoryError(EventSagaError):
    """A stored history cannot be read back; someone changed it or a backup is torn.

    Raised by everything that reads the history. ``eventsaga verify`` says what else is wrong;
    restore the events from a backup.

    Attributes:
        saga_id: The saga.
        seq: The first event that does not fit.
        reason: What is wrong with it.
    """

    def __init__(self, saga_id: UUID, seq: int, reason: str) -> None:
        super().__init__(saga_id, seq, reason)
        self.saga_id = saga_id
        self.seq = seq
        self.reason = reason

    def __str__(self) -> str:
        return f"saga {self.saga_id}, event {self.seq}: {self.reason}"

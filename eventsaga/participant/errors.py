"""What can go wrong on the side of a participant? A key, an order of events, a misuse."""

from eventsaga.errors import EventSagaError


class BadKeyError(EventSagaError):
    """The idempotency key cannot be used; answer 400, nothing was done.

    The key itself is not repeated: it came from outside.

    Attributes:
        reason: What is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class TooLateError(EventSagaError):
    """The undo was here first: what it undoes must not be done any more.

    Answer 410. Not 409, which tells an orchestrator to wait and to come again. The
    middleware answers 410 by itself if the error is not caught.

    Attributes:
        group: The saga, order or whatever was undone.
        step: Its part that was undone.
    """

    def __init__(self, group: str, step: str) -> None:
        super().__init__(group, step)
        self.group = group
        self.step = step

    def __str__(self) -> str:
        return f"{self.step!r} of {self.group!r} was undone before it was to be done"


class NoParticipationError(EventSagaError):
    """There is no transaction: the code does not run in a request that carries a key.

    Put `IdempotencyMiddleware` around the application, and send an unsafe request with an
    ``Idempotency-Key``.
    """

    def __str__(self) -> str:
        return (
            "this code does not run in an unsafe request with an Idempotency-Key that came "
            "through IdempotencyMiddleware"
        )


class ReplyTooLargeError(EventSagaError):
    """The reply cannot be stored; it was answered 500 and the effect is rolled back.

    Attributes:
        limit: Bytes that a body may have.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the body of the reply is larger than {self.limit} bytes"

"""What does a worker run that talks? A step that logs by eventsaga's logger and by its own."""

import logging

from pydantic import BaseModel

from eventsaga import PermanentError, Retry, Saga, Step, StepContext


class Talk(BaseModel):
    word: str


def say(talk: Talk, step: StepContext) -> None:
    """Run in a thread, which must know the attempt too."""
    step.log.info("said_by_step", word=talk.word)
    logging.getLogger("shop").warning("said by %s", "stdlib")
    raise PermanentError("that is all")


sagas = [Saga("talk", context=Talk, steps=[Step("say", say, retry=Retry(max_attempts=1))])]

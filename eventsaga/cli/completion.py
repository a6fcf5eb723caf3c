"""How does a shell complete the commands? By a script that it sources."""

from enum import StrEnum
from typing import Annotated

import typer

from eventsaga.cli.fail import OK
from eventsaga.cli.output import AsJson, say, say_json


class Shell(StrEnum):
    """Shells for which there is a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
    *,
    as_json: AsJson = False,
) -> int:
    """Print a script that makes a shell complete commands.

    Example:
      eventsaga completion bash > ~/.local/share/bash-completion/completions/eventsaga
      eval "$(eventsaga completion bash)"
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(
        prog_name="eventsaga", complete_var="_EVENTSAGA_COMPLETE", shell=shell
    )
    if as_json:
        say_json({"shell": shell, "script": script})
    else:
        say(script)
    return OK

"""How do I operate it from a shell? One module a group of commands, all called by `app`.

Answers go to standard output, everything else to standard error. The exit code is 0 for
yes or done, 1 for a negative answer, 2 for a wrong call or environment.
"""


def main() -> None:
    """Run the command that the arguments of this process ask for, and exit."""
    from eventsaga.cli.app import app

    app(prog_name="eventsaga")

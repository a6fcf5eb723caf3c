"""What may be shown in a terminal? What was written by somebody else only after this."""


def printable(text: str) -> str:
    """Return *text*, which somebody else wrote, without what would steer a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )

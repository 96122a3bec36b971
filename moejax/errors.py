"""The one exception for what a user can cause: shown as sentences, never as a traceback."""


class UserError(Exception):
    """One or more sentences, each naming the value at fault and the fix; `run` prints them and exits with code 2."""

    def __init__(self, *sentences: str):
        super().__init__(*sentences)
        self.sentences = sentences

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def of_the_system(error: OSError, place: object = None) -> str:
    """A sentence about a full disk, a missing permission, a folder that is gone; of `place`, if it names no file."""
    reason, place = error.strerror or str(error) or type(error).__name__, error.filename or place
    return f"{place}: {reason}." if place else f"{reason}."

"""The one exception that is the user's to mend, and why others came."""


class InputError(ValueError):
    """A user's mistake: says what was given, what is accepted and what to do. Commands print it as one line and exit 2."""


def reason(error: BaseException) -> str:
    """Why another's error came, as a part of one line: the system's word for it, else what it says, else its kind."""
    said = getattr(error, "strerror", None) or " ".join(str(error).strip("'\"").split())
    return said[:200] or type(error).__name__

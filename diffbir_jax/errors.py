"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """A user's mistake: says what was given, what is accepted and what to do. Commands print it as one line and exit 2."""

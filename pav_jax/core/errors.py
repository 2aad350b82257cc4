"""The one error type that means "the user can fix this"."""


class UserError(ValueError):
    """Bad input: says what was wrong, where, and what would be right.

    `pav` prints the message as one paragraph and exits with code 2; a library
    caller can catch it as a `ValueError`. Anything else that escapes is a bug
    of ours and keeps its traceback.
    """

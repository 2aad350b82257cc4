"""The error that means "the user can fix this", its relatives, and a full disk."""

import errno
import os

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class UserError(ValueError):
    """Bad input: says what was wrong, where, and what would be right.

    `pav` prints the message as one paragraph and exits with code 2; a library
    caller can catch it as a `ValueError`. Anything else that escapes is a bug
    of ours and keeps its traceback.
    """


class Unanswered(UserError):
    """A service does not answer; the same command may succeed later. Exit code 75."""


def unwritable(error: BaseException | None) -> str:
    """Why nothing could be written, if an error comes from that; else "".

    The disk is full, a quota is used up, or the file system is read-only. Follows the
    causes of the error. Libraries in C++ (TensorStore, array_record) give the reason
    in the text of their message only.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for reason in map(os.strerror, _UNWRITABLE):
            if reason in str(error):
                return reason
        hidden = error.__suppress_context__ and error.__cause__ is None
        error = None if hidden else error.__cause__ or error.__context__
    return ""

"""The error that means "the user can fix this", its relatives, disks and memory."""

import errno
import os
from collections.abc import Iterator

DENIED = tuple(map(os.strerror, (errno.EACCES, errno.EPERM)))
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS)))

_NO_MEMORY = (
    (RuntimeError, "RESOURCE_EXHAUSTED"),
    (RuntimeError, "can't start new thread"),
    (ImportError, "failed to map segment from shared object"),
    (ImportError, "cannot allocate memory for"),
)


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

    The disk is full, a quota is used up, the file system is read-only, or this user may
    not (`DENIED`; then it may be a file to be read). Follows the causes of the error.
    Libraries in C++ (TensorStore, array_record) give the reason in the text of
    their message only.
    """
    for cause in _causes(error):
        for reason in (*_FULL, *DENIED):
            if reason in str(cause):
                return reason
    return ""


def is_mistake(error: BaseException) -> bool:
    """Whether the same command would fail again until the user mends something."""
    if isinstance(error, UserError):
        return not isinstance(error, Unanswered)
    return bool(unwritable(error)) or exhausted(error)


def exhausted(error: BaseException | None) -> bool:
    """Whether an error comes from too little memory, of this machine or of a device.

    The loader of shared libraries and `threading` say so in words alone.
    """
    return any(
        isinstance(cause, MemoryError)
        or getattr(cause, "errno", None) == errno.ENOMEM
        or any(
            isinstance(cause, kind) and text in str(cause) for kind, text in _NO_MEMORY
        )
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, what that came from, and so on."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        hidden = error.__suppress_context__ and error.__cause__ is None
        error = None if hidden else error.__cause__ or error.__context__

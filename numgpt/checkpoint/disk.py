"""What the disk is asked for beside tensors: locks."""

import sys
from typing import IO


def try_lock(file: IO[bytes] | int) -> bool:
    """Lock an open file, unless another process has it. The lock goes when the file is closed, or the process ends.

    Returns whether it is ours, or this file system has no locks. On Windows it takes no number of a file.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # this file system has no locks
        return True
    return True

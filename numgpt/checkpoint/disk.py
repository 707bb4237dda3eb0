"""What the disk is asked for beside tensors: files and folders that appear whole, locks, and texts in UTF-8."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from typing import IO

from numgpt.errors import CheckpointError, TokenError


@contextmanager
def written_whole(path: Path) -> Iterator[BufferedWriter]:
    """Open a file that takes its name when it is whole; what was there before stays until then.

    What the system refuses is a CheckpointError, and then no part is left. A device or a pipe is written as it is.
    """
    part = _part_of(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                yield file
            return
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):  # there is none, or not even a folder
            part.unlink()


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Make a folder that takes its name when it is whole: what the block writes into the one that it is given.

    The folders above it are made too. Raises CheckpointError where something is there already that is not an empty
    folder, and for what the system refuses, here or in the block. Whatever the block raises, no part is left.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with folder_written_whole(Path(place, "new")) as part:
    ...         _ = (part / "config.json").write_text("{}")
    ...     [str(path.relative_to(place)) for path in Path(place).rglob("*")]
    ['new', 'new/config.json']
    """
    part = _part_of(folder)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise CheckpointError(f"{folder}: is there already, expected a new folder: choose another name")
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except OSError as error:
        raise _unwritten(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part_of(path: Path) -> Path:
    """Return where a file or a folder lies until it is whole: beside it, and no other process writes there."""
    return path.parent / f"{path.name}.{os.getpid()}.part"  # . and / have no name


def _unwritten(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path}: can't be written: {error.strerror}: free some space, or write elsewhere")


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


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises TokenError where it is no text, OSError where it can't be read.
    """
    return decode_text(path.read_bytes(), path)


def decode_text(raw: bytes, source: object) -> str:
    r"""Return the text of some bytes, less what is no text: a byte-order mark, and the \r of Windows' line ends.

    raw     UTF-8, or UTF-16 behind its mark, as PowerShell writes it
    source  where they are from, for the message
    Raises TokenError where they are neither.

    >>> decode_text("Ġ".encode(), "a.txt")
    'Ġ'
    >>> decode_text(b"caf\xe9", "a.txt")
    Traceback (most recent call last):
    numgpt.errors.TokenError: a.txt: byte 0xe9 at 3 is not UTF-8: convert it
    """
    coding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        return plain_text(raw.decode(coding))
    except UnicodeDecodeError as error:
        raise TokenError(f"{source}: byte {raw[error.start]:#04x} at {error.start} is not UTF-8: convert it") from None


def plain_text(text: str) -> str:
    r"""Return a text less what is none: a byte-order mark, and the \r of Windows' line ends.

    >>> plain_text("\ufeffone\r\ntwo")
    'one\ntwo'
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n")

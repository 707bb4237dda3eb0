"""A file on the disk that is whole, or not there under its name.

Until it is whole, the bytes of FILE lie beside it in FILE.KEY.part. KEY stands for the address and the version, so a
part is only ever continued with bytes of the same file: after a cut, and in a later process too.
"""

import errno
import glob
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import IO, NamedTuple

from numgpt.checkpoint.disk import try_lock
from numgpt.errors import DownloadError


class Facts(NamedTuple):
    """What is known of a file. `digest` is of this `kind`: sha256, md5, git (the name of a blob), or "" for unknown."""

    size: int | None = None
    kind: str = ""
    digest: str = ""
    etag: str = ""  # the server's name for this version


class Part:
    """The bytes of a file that are here already, in FILE.KEY.part beside it, and their hash."""

    def __init__(self, target: Path, url: str) -> None:
        self.target = target
        self.stem = f"{target.name}.{_key(url)}-"
        found = list(target.parent.glob(glob.escape(self.stem) + "*.part"))
        self.path = found[0] if found else self._path_of("")
        self.size = self.path.stat().st_size if found else 0
        self.file: IO[bytes] | None = None
        self.hash = _new_hash("sha256")

    def _path_of(self, etag: str) -> Path:
        return self.target.with_name(f"{self.stem}{_key(etag)}.part")

    def is_of(self, etag: str) -> bool:
        """Tell whether the bytes are of this version of the file."""
        return self.path == self._path_of(etag)

    def begin(self, want: Facts) -> None:
        """Make ready for more bytes: open the file, and hash what it holds."""
        kind = want.kind if want.kind in ("sha256", "md5") else "sha256"
        if not self.size:
            self.clear()
            self.path = self._path_of(want.etag)
        if self.file is None:
            # Not for appending: where locks do not work, two processes write the same bytes to the same places.
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            self.file = os.fdopen(handle, "r+b", buffering=0)
        elif self.hash.name == kind:
            return
        self.hash = _new_hash(kind)
        self.size = _hash_into(self.hash, self.file)

    def write(self, chunk: bytes) -> None:
        """Append bytes, and hash them."""
        assert self.file is not None
        rest = memoryview(chunk)
        while rest:
            written = self.file.write(rest) or 0
            self.hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def digest(self, kind: str) -> str:
        """Return the hash of all bytes. That of git begins with their number, so it can't be made as they come."""
        return _hash_path(self.path, "git") if kind == "git" else self.hash.hexdigest()

    def clear(self) -> None:
        """Forget all bytes."""
        self.size = 0
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and remove it if it is empty."""
        if self.file is not None:
            self.file.close()
            self.file = None
            if not self.size:
                self.path.unlink(missing_ok=True)

    def replace(self) -> None:
        """Give the file its name, and remove the parts of its other versions."""
        assert self.file is not None
        os.fsync(self.file.fileno())
        self.close()
        os.replace(self.path, self.target)
        for old in find_parts(self.target):
            old.unlink(missing_ok=True)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time fetch a file. The system drops the lock of a process that is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = path.with_name(path.name + ".lock")
    while True:
        file = open(held, "ab")  # noqa: SIM115, it stays open
        # The one before us removes the file, and then our lock may be on a file without a name.
        with suppress(FileNotFoundError):
            if try_lock(file) and os.path.samestat(os.fstat(file.fileno()), held.stat()):
                break
        file.close()
        sleep(0.1)
    try:
        yield
    finally:
        if sys.platform == "win32":  # there an open file can't be removed; nor this one, if somebody waits
            file.close()
        with suppress(OSError):
            held.unlink()
        file.close()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into a DownloadError."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"{path}: the disk is full: make room, or choose another place with NUMGPT_WEIGHTS, and run this "
                f"again; what was fetched is kept"
            ) from None
        raise DownloadError(f"{error.filename or path}: {error.strerror}: check the folder") from None


def check_space(folder: Path, needed: int) -> None:
    """Raise DownloadError if a folder, which may not exist yet, has no room for as many bytes."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder}: {needed:,} more bytes are needed, {free:,} are free: make room, or choose another place with "
            f"NUMGPT_WEIGHTS, and run this again"
        )


def bytes_left(path: Path, size: int | None) -> int:
    """Return how many bytes of a file of this size are still to be fetched."""
    here = [p.stat().st_size for p in [path, *find_parts(path)] if p.is_file()]
    return max(0, (size or 0) - max(here, default=0))


def find_parts(path: Path) -> list[Path]:
    """Return the parts of a file, of any version."""
    return list(path.parent.glob(glob.escape(path.name) + ".*-*.part"))


def is_whole(path: Path, want: Facts) -> bool:
    """Tell whether a file has the size, if it is known, and the hash that it should have."""
    if not path.is_file() or (want.size and path.stat().st_size != want.size):
        return False
    return _hash_path(path, want.kind) == want.digest


def _hash_path(path: Path, kind: str) -> str:
    """Return the hash of a file. What git hashes begins with its size: `blob 665`, a NUL, then the 665 bytes."""
    hash = _new_hash("sha1", b"blob %d\0" % path.stat().st_size) if kind == "git" else _new_hash(kind)
    with open(path, "rb", buffering=0) as file:
        _hash_into(hash, file)
    return hash.hexdigest()


def _hash_into(hash: "hashlib._Hash", file: IO[bytes]) -> int:
    """Hash a file from its first byte, and return its size."""
    file.seek(0)
    while chunk := file.read(1 << 20):
        hash.update(chunk)
    return file.tell()


def _new_hash(kind: str, start: bytes = b"") -> "hashlib._Hash":
    """Begin a hash. MD5 and SHA-1 are no protection, but all that some servers tell."""
    return hashlib.new(kind, start, usedforsecurity=False)


def _key(text: str) -> str:
    """Return eight characters that stand for an address or a version in the name of a file."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]

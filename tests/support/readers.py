"""Hold the reader of any format to what all of them promise: sound arrays, or a CheckpointError in one short line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from support.checkpoints import raw

from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import CheckpointError


class Spy:
    """Tensors that note the name of each that is read."""

    def __init__(self, tensors):
        self.reads = []
        self.tensors = {}
        for name, x in tensors.items():
            stored = raw(x)

            def read(name=name, x=x, stored=stored):
                self.reads.append(name)
                return x.astype(np.float32) if stored.dtype == "F16" else x.copy()

            self.tensors[name] = LazyTensor(stored.dtype, stored.shape, read)


def write(path: Path, raw: bytes) -> Path:
    path.unlink(missing_ok=True)  # some file systems are slow to write a file anew
    path.write_bytes(raw)
    return path


def refusal(path: Path, read: Callable[[Path], Any]) -> str:
    """What a reader says of a file that it refuses."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    return str(caught.value)


def fault(path: Path, read: Callable[[Path], Any]) -> str:
    """What a reader says of a file that it refuses, after the path of the file."""
    said = refusal(path, read)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def read_or_refused(path: Path, read: Callable[[Path], Mapping[str, LazyTensor]], longest: int = 1000) -> Any:
    """Read all of a file. Whatever is in it, it gives arrays or a CheckpointError of one short line: then None."""
    try:
        tensors = read(path)
        for tensor in tensors.values():
            array = tensor.read()
            assert array.shape == tensor.shape
            assert array.flags.aligned
            assert array.flags.c_contiguous
            assert array.flags.writeable
        return tensors
    except CheckpointError as error:
        said = str(error)
    assert said.startswith(str(path.parent))
    assert "expected" in said or "no such file" in said
    assert len(said) < longest
    assert said.isprintable()
    return None


def fuzz(examples: int | None = None) -> settings:
    """So many examples, or as many as the profile says, which may share tmp_path: each writes its file anew."""
    count = settings.default.max_examples if examples is None else examples
    return settings(max_examples=count, suppress_health_check=[HealthCheck.function_scoped_fixture])


ANY_BYTES = st.binary(min_size=1, max_size=40)


@st.composite
def damaged(draw, sample, places, numbers, pieces=ANY_BYTES):
    """A sound file that was cut, whose bits were flipped, or into which other numbers or pieces were written.

    sample   draws the bytes of the sound file
    places   draws where the numbers are that its reader believes
    numbers  bytes that are written over those at a place
    pieces   draws what is put between
    """
    raw = bytearray(draw(sample))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(places)
        match draw(st.sampled_from(["cut", "flip", "number", "swap", "insert"])):
            case "cut":
                del raw[draw(st.integers(0, len(raw))) :]
            case "flip" if at < len(raw):
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case "number":
                number = draw(st.sampled_from(numbers))
                raw[at : at + len(number)] = number
            case "swap":
                other = draw(places)
                raw[at : at + 8], raw[other : other + 8] = raw[other : other + 8], raw[at : at + 8]
            case "insert":
                raw[at:at] = draw(pieces)
    return bytes(raw)

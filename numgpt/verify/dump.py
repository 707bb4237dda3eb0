"""The intermediates of a run in a file: ours, and those that other programs wrote."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.disk import written_whole
from numgpt.checkpoint.files import is_str_map, opened, wrong
from numgpt.checkpoint.safetensors import read_header, write_safetensors
from numgpt.checkpoint.tensors import LazyTensor, tensor_of
from numgpt.errors import OptionError

METADATA = "__metadata__"  # the entry of the metadata, in safetensors and, by us, in .npz


class Dump(NamedTuple):
    """Tensors of a run, by whatever program, and what it says of them."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def hash_files(weights: Path) -> dict[str, str]:
    """Return name -> sha256 of the files that a checkpoint consists of: one, or an index and what it lists."""
    from hashlib import sha256  # here, as it takes 4 ms, which a mere import should not

    files = [weights]
    if weights.name.endswith(".index.json"):
        shards = json.loads(weights.read_bytes())["weight_map"].values()
        files += [weights.parent / name for name in sorted(set(shards))]
    elif weights.suffix == ".index":
        files += sorted(weights.parent.glob(f"{weights.stem}.data-*"))
    hashes = {}
    for path in files:
        digest = sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        hashes[path.name] = digest.hexdigest()
    return hashes


def write_trace(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a file that other programs read.

    path      ends in .safetensors or .npz; it takes its name when it is whole, and what was there stays until then
    tensors   name -> array, of float32, float64 or integers
    metadata  strings, kept in the entry "__metadata__": that of the format, or in .npz a string of JSON
    Raises OptionError for another ending, CheckpointError where the file can't be written: none is left then.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "trace.npz")
    ...     write_trace(path, {"embed": np.zeros((1, 2))}, {"ids": "[7]"})
    ...     read_dump(path)
    Dump(tensors={'embed': array([[0., 0.]])}, metadata={'ids': '[7]'})
    """
    path = Path(path)
    check_suffix(path)
    stored = {name: tensor_of(x, name) for name, x in tensors.items()}
    if path.suffix == ".safetensors":
        write_safetensors(path, stored, {"format": "np", **(metadata or {})})
        return
    arrays: dict[str, Any] = {METADATA: np.array(json.dumps(dict(metadata or {}))), **tensors}
    with written_whole(path) as file:
        np.savez(file, **arrays)


def check_suffix(path: Path) -> None:
    """Raise OptionError unless write_trace knows the format that the name of a file asks for."""
    if path.suffix not in (".safetensors", ".npz"):
        raise OptionError(
            f"{path}: ends in {path.suffix!r:.20}, expected .safetensors or .npz, or --to llm.c: choose another name"
        )


def read_dump(path: str | os.PathLike[str]) -> Dump:
    """Read tensors that numgpt or another program wrote.

    path  a file of safetensors, of np.savez, of np.save or of torch.save, told by its content
    Returns the tensors, and the strings beside them. What lies in dicts, lists or tuples of torch.save gets dotted
    names: ("hidden_states", 3) is hidden_states.3.
    Raises CheckpointError where there is no such file, or it is damaged.
    """
    path = Path(path)
    with opened(path) as file:
        start = file.read(9)
        if start[:4] == b"PK\3\4":
            with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
                if all(name.endswith(".npy") for name in archive.namelist()):
                    return _read_npz(path)
    if start[:6] == b"\x93NUMPY":
        return _read_npy(path)
    if start[:4] == b"PK\3\4" or (start[:1] == b"\x80" and start[8:9] != b"{"):
        from numgpt.checkpoint.pytorch import read_object

        found = Dump({}, {})
        _flatten("", read_object(path), found)
        return found
    lazy, metadata = read_header(path)
    return Dump({name: tensor.read() for name, tensor in lazy.items()}, metadata)


def _read_npz(path: Path) -> Dump:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        texts = {name: str(x) for name, x in arrays.items() if x.dtype.kind == "U" and not x.ndim}
        metadata = json.loads(texts.pop(METADATA, "{}"))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise wrong(path, f"{error}", "the file is damaged, or holds Python objects: write plain arrays") from None
    if not is_str_map(metadata):
        raise wrong(path, f"{METADATA} is no map of strings to strings", "write it anew")
    return Dump({name: x for name, x in arrays.items() if x.dtype.kind in "fiub"}, {**texts, **metadata})


def _read_npy(path: Path) -> Dump:
    """Read a file of one array, which is called as the file is."""
    try:
        return Dump({path.stem: np.load(path, allow_pickle=False)}, {})
    except (OSError, ValueError, EOFError) as error:
        raise wrong(path, f"{error}", "the file is damaged, or holds Python objects: write plain arrays") from None


def _flatten(name: str, value: Any, found: Dump) -> None:
    """Add to a dump what torch.save kept, with the keys on the way to it joined by dots."""
    if isinstance(value, LazyTensor):
        found.tensors[name] = value.read()
    elif isinstance(value, str):
        found.metadata[name] = value
    elif isinstance(value, (list, tuple)) and value and all(type(x) is int for x in value):
        found.tensors[name] = np.array(value)
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _flatten(f"{name}.{key}" if name else str(key), item, found)

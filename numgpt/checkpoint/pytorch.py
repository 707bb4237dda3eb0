"""Read what torch.save writes (pytorch_model.bin, *.pt, *.pth, *.ckpt), without PyTorch, and trusting nothing in it.

Such a file is a pickle, which pickles.py reads, and the storages beside it: the bytes of the tensors, each under a KEY.
Two containers hold these:

Zip, since PyTorch 1.6. All names are in one folder, whatever it is called; the entries are not compressed; sizes are
64-bit (zip64). Little-endian, unless "byteorder" says "big":

    archive/data.pkl      the pickle
    archive/data/KEY      the bytes of the storage KEY, as they lie in memory
    archive/byteorder     "little" or "big"; absent from old files

Legacy, before it; gpt2's own pytorch_model.bin is one. Five pickles, one after another, then the storages:

    the number 0x1950a86a20f9469cfc6c
    the number 1001, the version of the format
    a dict about the machine that wrote it; the storages are little-endian whatever it says
    the object
    the list of all KEYs
    for each KEY, in the order of this list: the count, as a 64-bit integer, then the bytes

Older than both is a tar archive, which we refuse. The sum of a zip entry (CRC-32) is not checked: PyTorch can be told
to write none.

Source: torch/serialization.py (_save, _legacy_save, _load, _legacy_load) of PyTorch 2.13; the zip format: PKWARE's
APPNOTE.TXT 6.3.3.
"""

import math
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from numgpt.checkpoint.aliases import find_own, is_own_name
from numgpt.checkpoint.characters import TABLES, characters_of
from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.files import (
    DAMAGED,
    check_kind,
    listing,
    opened,
    place_of,
    printable,
    read_array,
    read_shards,
    version_of,
    wrong,
)
from numgpt.checkpoint.pickles import MAX_PICKLE, SAVE_AGAIN, STATE_ALONE, Tensor, Unpickler, copy_plainly, shown
from numgpt.checkpoint.settings import config_from_json, read_settings, says_heads
from numgpt.checkpoint.tensors import DTYPES, LazyTensor
from numgpt.checkpoint.vocabulary import gpt2

MAGIC, FORMAT = 0x1950A86A20F9469CFC6C, 1001
MAX_DIRECTORY = 1 << 22  # bytes of the list of what is in a zip archive: 50,000 entries
MAX_EXPANDED = 1 << 24  # numbers in a tensor that repeats those of a smaller storage
WRAPPERS = ("state_dict", "model_state_dict", "model")  # Lightning, many scripts, nanoGPT; any other will do, too
OF_TRAINING = re.compile(r"optim|sched|scaler|grad|exp_avg|momentum")  # keys under which tensors are of no model
CONFIGURATIONS = ("model_config", "config", "hparams", "hyper_parameters", "args", "cfg")  # beside a state dict
NANOGPT_VOCABULARIES = (50257, 50304)  # GPT-2's; and the same padded to a multiple of 64

MORE_KINDS = (
    (rb"(?s).{257}ustar", "a tar archive, as the first versions of PyTorch wrote it", SAVE_AGAIN),
    (rb"(?s).{8}\{", "a safetensors file", "use read_safetensors"),
)


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is a zip archive or a pickle, or the index of several .bin files."""
    return glance.start.startswith((b"PK\3\4", b"\x80")) or glance.path.name.endswith(".bin.index.json")


def open_weights(glance: Glance) -> Opened:
    """Open a file of torch.save, or the index of several, with config.json beside it or a configuration inside it.

    A file whose matrices are those of nn.Linear is nanoGPT's, or that of a program that grew out of it: where nothing
    says otherwise, its activation is the exact GELU, and its tokenizer the characters in it, or GPT-2's, if the
    vocabulary is as large and no other lies beside it.
    Source of nanoGPT's: train.py and model.py of karpathy/nanoGPT.
    """
    path, said, characters = glance.path, None, None
    left_out: dict[str, str] = {}
    if glance.start.lstrip()[:1] == b"{":
        tensors = read_pytorch_index(path)
    else:
        saved = read_object(path)
        keys, state = _find_state_dict(saved, path)
        tensors, left_out = _tensors_of(state, path)
        holder = saved
        for key in keys:
            said = find_settings(holder, holder.get("model_args")) or said
            characters = _find_characters(holder) or characters
            left_out |= {str(other): "beside the state dict" for other in holder if other != key}
            holder = holder[key]
    own = find_own(tensors, path)
    activation = "gelu" if said is not None else own.activation
    if said is None:
        config, settings = read_settings(path.parent, own.tensors, glance.given, activation)
    else:
        source = f"{path}: the configuration in it"
        config, settings = config_from_json(said, source, own.tensors, glance.given, activation), {}
    kind = "nanogpt" if own.is_linear else "pytorch"
    left_out |= own.left_out
    found = Opened(path, kind, tensors, own.tensors, config, settings, path.parent, left_out=left_out)
    if characters is not None:
        return found._replace(tokenizer=partial(characters_of, characters, path))
    if own.is_linear and config.n_vocab in NANOGPT_VOCABULARIES:
        return found._replace(tokenizer=gpt2)
    return found


def find_settings(saved: Any, model_args: dict[str, Any] | None) -> dict[str, Any] | None:
    """Find the configuration beside a state dict: the first under CONFIGURATIONS that says the number of heads.

    Returns what it says under names that are texts; where none says it, `model_args`.

    >>> find_settings({"model": {}, "config": {"n_heads": 2, "lr": 0.1}}, None)
    {'n_heads': 2, 'lr': 0.1}
    """
    if not isinstance(saved, dict) or says_heads(model_args):
        return model_args
    return next((saved[key] for key in CONFIGURATIONS if says_heads(saved.get(key))), model_args)


def read_pytorch(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the tensors of one file that torch.save wrote: check all of it but the tensors, of which none is read.

    path  the file, of either format, whatever its name
    Returns a dict from name to LazyTensor, in the order of the state dict. `read()` gives what the one of
    read_safetensors gives.
    Raises CheckpointError if the file is missing, damaged or holds no state dict, and if its pickle asks for anything
    but tensors and plain values, which is then named and not touched. `read()` also raises it: if the file was changed
    since, if a BOOL has a byte other than 0 and 1, or if the tensor does not fit into memory.
    Source: torch.load of PyTorch.

    >>> import tempfile, zipfile
    >>> storage = b"(X\\7\\0\\0\\0storagectorch\\nFloatStorage\\nX\\1\\0\\0\\x000X\\3\\0\\0\\0cpuK\\2tQ"
    >>> tensor = b"ctorch._utils\\n_rebuild_tensor_v2\\n(" + storage + b"K\\0K\\2\\x85K\\1\\x85\\x89NtR"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tiny.pt")
    ...     with zipfile.ZipFile(path, "w") as file:
    ...         file.writestr("tiny/data.pkl", b"\\x80\\2}X\\6\\0\\0\\0ln_f.g" + tensor + b"s.")
    ...         file.writestr("tiny/data/0", bytes.fromhex("0000803f 000000c0"))
    ...     tensors = read_pytorch(path)
    ...     tensors["ln_f.g"].dtype, tensors["ln_f.g"].shape, tensors["ln_f.g"].read()
    ('F32', (2,), array([ 1., -2.], dtype=float32))
    """
    return find_state_dict(read_object(path), path)[0]


def find_state_dict(saved: Any, source: str | os.PathLike[str]) -> tuple[dict[str, LazyTensor], dict[str, Any] | None]:
    """Find the state dict in a saved object: the object itself, or a dict in it under whatever key.

    saved   what read_object returns
    source  the name of the file, for messages
    Returns the state dict, and what lies beside it under "model_args": the sizes of a nanoGPT, else None.
    Raises CheckpointError if there is none or more than one. What in it is no tensor is left out.
    Source: train.py of karpathy/nanoGPT; dump_checkpoint of Lightning.

    >>> wte = LazyTensor("F32", (99, 4), lambda: np.zeros((99, 4), np.float32))
    >>> tensors, model_args = find_state_dict({"net": {"wte.weight": wte}, "model_args": {"n_head": 2}}, "ckpt.pt")
    >>> list(tensors), model_args
    (['wte.weight'], {'n_head': 2})
    """
    keys, state = _find_state_dict(saved, Path(source))
    holder = saved
    for key in keys[:-1]:
        holder = holder[key]
    model_args = holder.get("model_args") if keys else None
    return _tensors_of(state, Path(source))[0], model_args if isinstance(model_args, dict) else None


def _find_state_dict(saved: Any, source: Path) -> tuple[tuple[Any, ...], dict[Any, Any]]:
    """Return the keys under which the state dict lies in a saved object, and the state dict."""
    found = dict(_dicts_of_tensors(saved))
    models = [keys for keys, state in found.items() if any(map(is_own_name, state))]
    if not models:  # of names that nobody knows: what is wrong with them is said later
        usual = [keys for keys in found if keys and keys[-1] in WRAPPERS]
        models = usual or [()] * (() in found) or list(found)
    if len(models) > 1:
        under = listing([printable(".".join(map(str, keys))) or "the top" for keys in models])
        raise wrong(source, f"state dicts under {under}, expected one of them", STATE_ALONE)
    if not models:
        expected = "expected a dict of tensors, or one in it"
        raise wrong(source, f"holds {shown(saved)}, {expected}", "if a state dict is in it, save that alone")
    return models[0], found[models[0]]


def _dicts_of_tensors(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], dict[Any, Any]]]:
    """Yield the dicts in an object that hold tensors, each with the keys that lead to it, but for an optimizer's."""
    if isinstance(value, dict):
        if any(isinstance(each, LazyTensor) for each in value.values()):
            yield keys, value
        for key, each in value.items():
            if not OF_TRAINING.search(str(key)):
                yield from _dicts_of_tensors(each, (*keys, key))


def _tensors_of(state: dict[Any, Any], source: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Return the tensors of a state dict, and what else is in it -> why it is left out."""
    for name, value in state.items():
        if not isinstance(name, str) and isinstance(value, LazyTensor):
            fault = f"the state dict has {shown(value)} under {shown(name)}, expected tensors under names"
            raise wrong(source, fault, "save the state dict without it")
    tensors = {name: value for name, value in state.items() if isinstance(value, LazyTensor)}
    return tensors, {str(name): "no tensor" for name in state if name not in tensors}


def _find_characters(holder: dict[Any, Any]) -> dict[str, Any] | None:
    """Find the tables of the characters that a model knows, beside its state dict or in a dict there."""
    nearby = [holder, *(value for value in holder.values() if isinstance(value, dict))]
    return next((each for each in nearby if any(isinstance(each.get(key), dict | list) for key in TABLES)), None)


def read_pytorch_index(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the tensors of a checkpoint that is split into shards, which `pytorch_model.bin.index.json` lists.

    path  the index, as read_index takes it; its shards are .bin files
    Returns a dict from name to LazyTensor, of all tensors of all shards.
    Raises CheckpointError as read_index and read_pytorch do.
    Source: get_checkpoint_shard_files of huggingface/transformers.
    """
    return read_shards(Path(path), read_pytorch, ".bin")


def read_object(path: str | os.PathLike[str]) -> Any:
    """Read the object that torch.save wrote, without the data of its tensors.

    path  the file, of either format, whatever its name
    Returns dicts, lists, tuples, str, int, float, bool, None, bytes and, for each tensor, a LazyTensor. No container
    is in it twice, and none is deeper than MAX_DEPTH, so it may be walked, printed and compared.
    Raises CheckpointError as read_pytorch does.
    Source: torch.load of PyTorch.
    """
    path = Path(path)
    with opened(path) as file:
        version = version_of(file)
        start = file.read(512)
        if start.startswith(b"PK\3\4"):
            value, places = _open_zip(path, file, version[0])
        elif start.startswith(b"\x80"):
            value, places = _open_legacy(path, file, version[0])
        else:
            check_kind(path, start, "a file of torch.save", MORE_KINDS)
            raise wrong(path, f"begins with {start[:4]!r}, expected a file of torch.save", f"it is none, or {DAMAGED}")
    return copy_plainly(path, value, partial(_place, path, version, places))


# --- the two containers: each gives the object, and the place in the file of each storage that it asked for


def _open_legacy(path: Path, file: BufferedReader, size: int) -> tuple[Any, dict[str, int]]:
    file.seek(0)
    if (magic := Unpickler(path, file).load()) != MAGIC:
        fault = f"begins with the pickle of {shown(magic)}, expected the number that torch.save begins with"
        raise wrong(path, fault, f"it is a pickle of another kind, or {DAMAGED}")
    if (number := Unpickler(path, file).load()) != FORMAT:
        raise wrong(path, f"version {shown(number)} of the format, expected {FORMAT}", SAVE_AGAIN)
    Unpickler(path, file).load()  # about the machine that wrote it
    unpickler = Unpickler(path, file)
    value, storages = unpickler.load(), unpickler.storages
    keys = Unpickler(path, file).load()
    if type(keys) is not list or any(type(k) is not str for k in keys) or sorted(keys) != sorted(storages):
        raise wrong(path, f"storages {shown(keys)}, expected the {len(storages):,} of its tensors, once each")
    places = {}
    end = file.tell()
    for key in keys:
        dtype, length = storages[key]
        file.seek(end)
        stored = int.from_bytes(file.read(8), "little")
        places[key] = end + 8
        end += 8 + length * DTYPES[dtype].itemsize
        if end > size:
            raise wrong(
                path, f"storage {printable(key)} ends at byte {end:,}, expected at most {size:,}, the file's end"
            )
        if stored != length:
            raise wrong(path, f"storage {printable(key)} has {stored:,} numbers, expected {length:,}")
    if end != size:
        raise wrong(path, f"{size:,} bytes, expected {end:,}, where the last storage ends")
    return value, places


def _open_zip(path: Path, file: BufferedReader, size: int) -> tuple[Any, dict[str, int]]:
    entries, end = _read_directory(path, file, size)

    def find(name: str) -> int:
        """Go to the data of an entry, and return its size."""
        if name not in entries:
            raise wrong(path, f"{printable(name)} is missing, expected it in the archive")
        flags, method, length, packed, at = entries[name]
        if flags & 1 or method or packed != length:
            how = "encrypted" if flags & 1 else "compressed"
            raise wrong(path, f"{printable(name)} is {how}, expected it as torch.save writes it, as it is", SAVE_AGAIN)
        file.seek(min(at, end))
        local = file.read(30)
        if len(local) < 30 or local[:4] != b"PK\3\4":
            raise wrong(
                path, f"{printable(name)} is not at byte {at:,}, expected it where the archive's directory says"
            )
        at += 30 + sum(struct.unpack("<2H", local[26:]))  # its name and extra fields, again
        if at + length > end:
            raise wrong(path, f"{printable(name)} ends at byte {at + length:,}, expected at most {end:,}")
        file.seek(at)
        return length

    pickles = [name for name in entries if re.fullmatch(r"[^/]*/data\.pkl", name)]
    if len(pickles) != 1:
        fault = f"a zip archive with {len(pickles)} pickles data.pkl, expected 1"
        raise wrong(path, fault, "it is another kind of archive, or was packed again")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in entries:
        length = find(folder + "byteorder")
        if (order := file.read(min(length, 20))) != b"little":
            raise wrong(path, f"byteorder {order!r}, expected b'little'", "save it again on a little-endian machine")
    if (length := find(pickles[0])) > MAX_PICKLE:
        raise wrong(path, f"a pickle of {length:,} bytes, expected at most {MAX_PICKLE:,}", STATE_ALONE)
    unpickler = Unpickler(path, file, length)
    value = unpickler.load()
    places = {}
    for key, (dtype, length) in unpickler.storages.items():
        expected = length * DTYPES[dtype].itemsize
        if (found := find(f"{folder}data/{key}")) != expected:
            fault = f"{found:,} bytes, expected {expected:,} for {length:,} numbers of {dtype}"
            raise wrong(path, f"storage {printable(key)} has {fault}")
        places[key] = file.tell()
    return value, places


def _read_directory(path: Path, file: BufferedReader, size: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return name -> (flags, method, size, packed size, place of its local header), and where the directory begins."""
    file.seek(max(size - 42, 0))
    tail = file.read(42)
    end = size - 22
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise wrong(path, "a zip archive without its end, expected it in the last 22 bytes")
    count, length, begin = struct.unpack("<H2I", tail[-12:-2])
    if tail[:4] == b"PK\6\7":  # zip64: these numbers again, with more bits
        end = int.from_bytes(tail[8:16], "little")
        file.seek(min(end, size))
        if len(record := file.read(56)) < 56 or record[:4] != b"PK\6\6":
            raise wrong(path, f"no zip64 record at byte {end:,}, expected it where the end of the archive says")
        count, length, begin = struct.unpack("<3Q", record[32:])
    if length > MAX_DIRECTORY or begin + length != end:
        expected = f"expected at most {MAX_DIRECTORY:,} that end at byte {end:,}"
        raise wrong(path, f"a directory of {length:,} bytes at byte {begin:,}, {expected}")
    file.seek(begin)
    raw = memoryview(file.read(length))
    entries: dict[str, tuple[int, ...]] = {}
    while raw:
        if len(raw) < 46 or raw[:4] != b"PK\1\2":
            raise wrong(path, f"no entry {len(entries):,} in the archive's directory, expected {count:,}")
        flags, method, packed, full, names, extras, notes, at = struct.unpack("<8x2H8x2I3H8xI", raw[:46])
        name, extra, raw = bytes(raw[46:][:names]).decode(errors="replace"), raw[46 + names :][:extras], raw[46:]
        raw = raw[names + extras + notes :]
        wide = raw[:0]
        while len(extra) >= 4:  # fields: what they are, their length, their bytes
            kind, width = struct.unpack("<2H", extra[:4])
            wide = extra[4 : 4 + width] if kind == 1 else wide
            extra = extra[4 + width :]
        numbers = [full, packed, at]
        for i, number in enumerate(numbers):  # zip64: those that need more bits, in this order
            if number == 0xFFFFFFFF:
                numbers[i], wide = int.from_bytes(wide[:8], "little"), wide[8:]
        if name in entries:
            raise wrong(path, f"{printable(name)} is in the archive twice, expected it once")
        entries[name] = (flags, method, *numbers)
    if len(entries) != count:
        raise wrong(path, f"{len(entries):,} entries in the archive's directory, expected {count:,}")
    return entries, begin


# --- the tensors


def _place(path: Path, version: tuple[int, int], places: dict[str, int], name: str, tensor: Tensor) -> LazyTensor:
    """Hold a tensor against its storage."""
    where = place_of(path, name)
    (key, dtype, begin, length), offset, shape, stride = tensor
    size = math.prod(shape)
    span = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if size else 0
    if size and offset + span > length:
        fault = f"shape {shape} and stride {stride} from number {offset:,} on need {offset + span:,}"
        raise wrong(where, f"{fault}, expected at most the {length:,} of the storage")
    if size > max(length, MAX_EXPANDED) or math.prod(n or 1 for n in shape) * 8 > sys.maxsize:
        fault = f"shape {shape} from {length:,} numbers, expected one that repeats them less"
        raise wrong(where, fault, "save it with .contiguous()")
    stride = tuple(0 if n == 1 else step for n, step in zip(shape, stride, strict=True))
    packed = tuple(0 if n == 1 else math.prod(shape[i + 1 :]) for i, n in enumerate(shape))
    at = places[key] + (begin + offset if size else 0) * DTYPES[dtype].itemsize
    if not size or stride == packed:
        return LazyTensor(dtype, shape, partial(read_array, path, version, where, dtype, shape, at))
    run = partial(read_array, path, version, where, dtype, (span,), at)
    return LazyTensor(dtype, shape, partial(_read_view, where, run, shape, stride))


def _read_view(
    where: str, read_run: Callable[[], np.ndarray], shape: tuple[int, ...], stride: tuple[int, ...]
) -> np.ndarray:
    """Read all from a tensor's first number to its last, then take those that it has."""
    run = read_run()
    try:
        return np.lib.stride_tricks.as_strided(run, shape, [step * run.itemsize for step in stride]).copy()
    except MemoryError:
        raise wrong(where, f"a view of shape {shape}, expected one that fits into memory", "free some") from None

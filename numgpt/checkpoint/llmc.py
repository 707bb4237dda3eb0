"""llm.c's model files, such as gpt2_124M.bin, with the file of their tokenizer; the order of tensors in other files.

Little-endian throughout. Every file of llm.c begins with 256 int32, the header, of which the first tells what it is and
those that are not named are 0. A model's are

    20240326, version, n_ctx, n_vocab, n_layer, n_head, C, n_rows

    version 3  float32
    version 5  bfloat16, the upper half of a float32, rounded half to even
    version 1  float32 of the first days, without padding: n_rows is not there, and is n_vocab

After it the tensors follow without gaps, each as the rows of nn.Linear, [out, in], for all layers before the next:

    wte          [n_rows, C]
    wpe          [n_ctx, C]
    ln_1         weight [L, C],     then bias [L, C]; and so on for each of these:
    attn.c_attn  weight [L, 3C, C], bias [L, 3C]
    attn.c_proj  weight [L, C, C],  bias [L, C]
    ln_2         weight [L, C],     bias [L, C]
    mlp.c_fc     weight [L, 4C, C], bias [L, 4C]
    mlp.c_proj   weight [L, C, 4C], bias [L, C]
    ln_f         weight [C],        bias [C]

n_rows is n_vocab rounded up to 128, 50304 of 50257; the rows past n_vocab are 0 and stand for nothing. All else is
GPT-2's and fixed: gelu_new, epsilon 1e-5, an MLP of width 4C, the output head is wte. In versions 2 and 4, and in 3 for
a day, tensors had two dtypes or another order.

gpt2_tokenizer.bin beside it has no merges, so that it only decodes. Its header and what follows, for each id:

    20240328, version, how many ids, the id of end-of-text (version 2; in version 1 it is 50256)
    one byte, the length, 1 to 255, and the bytes of the token

Source: karpathy/llm.c, train_gpt2.py (write_model, write_tokenizer), train_gpt2.c and llmc/tokenizer.h. Where we are
stricter: a model ends where its sizes say, and a header of more than MAX_LAYERS layers or MAX_TOKENS tokens is refused.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np

from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.files import CHUNK, check_kind, opened, read_small, version_of, wrong
from numgpt.checkpoint.gguf import Stored
from numgpt.checkpoint.quants import BLOCKS, TYPES, pack
from numgpt.checkpoint.settings import config_from_json
from numgpt.checkpoint.tensors import DTYPES, LazyTensor
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.config import Config
from numgpt.errors import CheckpointError, TokenError
from numgpt.fast.tokenizer import AddedToken, Tokenizer

HEADER = 256  # int32
MODEL, DEBUG_STATE, TOKENIZER, TOKENS = 20240326, 20240327, 20240328, 20240520  # the first of a header
KINDS = {  # of llm.c's files: what each is, and what to do with it where another is wanted
    MODEL: ("model", "give it as a model, by -m"),
    DEBUG_STATE: ("debug state", "give the model itself; a state is for numgpt verify"),
    TOKENIZER: ("tokenizer", "give the model beside it"),
    TOKENS: ("file of tokens", "give it to numgpt train or numgpt score --file"),
    20240522: ("multiple-choice data", "give another file"),
    20240527: ("state of a training", "give the model beside it, model_NUMBER.bin"),
    20240801: ("file of Llama 3's tokens", "use tokens of GPT-2: numgpt runs no other model"),
    20240803: ("Llama 3", "numgpt runs GPT-2 and no other model"),
}
STORED = {1: "F32", 3: "F32", 5: "BF16"}  # the dtype of a model, by its version
PADDED = 128  # n_rows is a multiple of it
TOKENIZER_FILE = "gpt2_tokenizer.bin"
GPT2_TOKENS = "a622700e3255b4a6186e052c4c715c1d05634cb6041c12ab6c95c9ee0a2c9772"  # sha256 of GPT-2's, after the header
GPT2_END, GPT2_LENGTH = 50256, 50257
MAX_LAYERS = 1 << 11  # GPT-2 XL has 48
MAX_TOKENS = 1 << 17


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is one of llm.c, a model or another."""
    return int.from_bytes(glance.start[:4], "little") in KINDS


def is_model(glance: Glance) -> bool:
    """Tell whether a file is a model of llm.c."""
    return int.from_bytes(glance.start[:4], "little") == MODEL


def open_weights(glance: Glance) -> Opened:
    """Open a model of llm.c, with the files of a tokenizer or gpt2_tokenizer.bin beside it."""
    path = glance.path
    with opened(path) as file:
        version = version_of(file)
        values = read_header(path, file.read(4 * HEADER), MODEL, tuple(STORED))
    dtype = STORED[values[1]]
    n_ctx, n_vocab, n_layer, n_head, C = values[2:7]
    sizes = {"n_positions": n_ctx, "n_vocab": n_vocab, "n_layer": n_layer, "n_head": n_head, "n_embd": C}
    beside = path.with_name(TOKENIZER_FILE)
    end = _end_of_text(beside)
    config = config_from_json({**sizes, "eos_token_id": end, "bos_token_id": end}, str(path))
    n_rows = n_vocab if values[1] == 1 else values[7]
    if n_rows < n_vocab:
        raise wrong(path, f"an embedding of {n_rows:,} rows, expected {n_vocab:,} or more, one for each token")
    count = n_rows * C + n_ctx * C + n_layer * (12 * C * C + 13 * C) + 2 * C
    size = 4 * HEADER + count * DTYPES[dtype].itemsize
    if version[0] != size:
        raise wrong(path, f"{version[0]:,} bytes, expected {size:,} for {count:,} numbers in {dtype}")
    if n_layer > MAX_LAYERS:
        raise wrong(path, f"{n_layer:,} layers, expected at most {MAX_LAYERS:,}", "it is no file of a GPT-2")

    tensors: dict[str, LazyTensor] = {}
    hub_tensors: dict[str, LazyTensor] = {}
    at = 4 * HEADER
    for name, shape in layout(config, n_rows).items():
        x = Stored(path, version, name, BLOCKS[TYPES[dtype]], shape, at)
        at += int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
        tensors[name] = LazyTensor(dtype, shape, x.read)
        x = x._replace(shape=(n_vocab, C)) if name == "wte.weight" else x
        turned = is_turned(name)
        shape = x.shape[::-1] if turned else x.shape
        hub_tensors[name] = LazyTensor(dtype, shape, partial(x.read, turned), partial(x.into, turned), by_columns=True)
    tokenizer = partial(_tokenizer, beside, n_vocab)
    return Opened(path, "llm.c", tensors, hub_tensors, config, {}, path.parent, tokenizer)


def read_header(path: Path, raw: bytes, kind: int, versions: tuple[int, ...]) -> list[int]:
    """Return the 256 numbers of a header, once it is sure that it is that of a file of the kind.

    raw       the first 1024 bytes of the file
    versions  of the kind, that are read
    Raises CheckpointError for any other file: one of llm.c is named.
    """
    first, expected = int.from_bytes(raw[:4], "little"), f"llm.c's {KINDS[kind][0]}"
    if first != kind:
        if first in KINDS:
            what, remedy = KINDS[first]
            raise wrong(path, f"it looks like llm.c's {what}, expected {expected}", remedy)
        check_kind(path, raw, expected)
        raise wrong(path, f"begins with {raw[:4]!r}, expected {expected}", "give another file")
    if len(raw) < 4 * HEADER:
        raise wrong(path, f"{len(raw):,} bytes, expected at least {4 * HEADER:,} of {expected}")
    values: list[int] = np.frombuffer(raw, "<i4").tolist()
    if values[1] not in versions:
        known = " or ".join(map(str, versions))
        raise wrong(path, f"{expected} of version {values[1]}, expected {known}", "write it anew with today's llm.c")
    return values


# ---- the tensors


def header(*values: int) -> bytes:
    """Return a header that begins with these values.

    >>> len(header(MODEL, 3)), header(MODEL, 3)[:8].hex()
    (1024, 'c6d7340103000000')
    """
    return np.array([*values, *[0] * (HEADER - len(values))], "<i4").tobytes()


def padded_rows(n_vocab: int) -> int:
    """Return how many rows the embedding of so many tokens has in a file.

    >>> padded_rows(50257), padded_rows(128)
    (50304, 128)
    """
    return -(-n_vocab // PADDED) * PADDED


def layout(config: Config, n_rows: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model in their order in a file, by the Hub's names, with their shapes there.

    config  of which the sizes count
    n_rows  rows of the embedding in the file: `padded_rows`

    >>> config = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=2)
    >>> list(layout(config, 128).items())[:5]
    [('wte.weight', (128, 4)), ('wpe.weight', (5, 4)), ('h.0.ln_1.weight', (4,)), ('h.1.ln_1.weight', (4,)), \
('h.0.ln_1.bias', (4,))]
    """
    C = config.n_embd
    layer: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (C,),
        "ln_1.bias": (C,),
        "attn.c_attn.weight": (3 * C, C),
        "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C),
        "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,),
        "ln_2.bias": (C,),
        "mlp.c_fc.weight": (4 * C, C),
        "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (C, 4 * C),
        "mlp.c_proj.bias": (C,),
    }
    stacked = {f"h.{i}.{name}": shape for name, shape in layer.items() for i in range(config.n_layer)}
    return {
        "wte.weight": (n_rows, C),
        "wpe.weight": (config.n_ctx, C),
        **stacked,
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
    }


def is_turned(name: str) -> bool:
    """Tell whether a tensor, by the Hub's name, lies in a file as the transpose of what the Hub has."""
    return name.endswith((".c_attn.weight", ".c_fc.weight", ".c_proj.weight"))


def write_tensors(
    file: BinaryIO, tensors: Mapping[str, LazyTensor], config: Config, n_rows: int, dtype: str = "F32"
) -> None:
    """Write the tensors of a model, or others of the same shapes such as its gradients, in the order of `layout`.

    file     where they go, one after another
    tensors  by the Hub's names and in its layout: matrices [in, out], wte [n_vocab, C], padded with zeros to n_rows
    dtype    "F32" or "BF16"
    Raises FloatingPointError with the tensor's name where a number is too large for the dtype.

    >>> from io import BytesIO
    >>> from numgpt.checkpoint.tensors import tensor_of
    >>> config = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=0)
    >>> tensors = {"wte.weight": (9, 4), "wpe.weight": (5, 4), "ln_f.weight": (4,), "ln_f.bias": (4,)}
    >>> file = BytesIO()
    >>> write_tensors(file, {name: tensor_of(np.ones(shape)) for name, shape in tensors.items()}, config, 128)
    >>> int(np.frombuffer(file.getvalue(), "<f4").sum())
    64
    """
    for name, shape in layout(config, n_rows).items():
        count = 0
        for packed in _strips(tensors[name].read(), name, dtype):
            count += file.write(packed)
        size = int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
        file.write(bytes(size - count))


def _strips(array: np.ndarray, name: str, dtype: str) -> Iterator[bytes]:
    """Yield the bytes of a tensor, some rows at a time, so that little is held twice."""
    rows = (array.T if is_turned(name) else array).reshape(-1, array.shape[0 if is_turned(name) else -1])
    step = max(1, CHUNK // rows.shape[1])
    for i in range(0, len(rows), step):
        try:
            with np.errstate(over="raise"):
                part = rows[i : i + step].astype("<f4")
                yield pack(dtype, round_to_bf16(part) if dtype == "BF16" else part).tobytes()
        except FloatingPointError:
            raise FloatingPointError(f"{name} has a number that is too large for {dtype}") from None


def round_to_bf16(x: np.ndarray) -> np.ndarray:
    """Return float32 numbers rounded to those that bfloat16 has, half to even. What is no number stays none.

    Raises FloatingPointError where a number becomes infinite.

    >>> round_to_bf16(np.array([1 + 1 / 256, 1 + 3 / 256], np.float32))
    array([1.      , 1.015625], dtype=float32)
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    rounded = np.where(np.isnan(x), bits & 0xFFFF0000 | 0x400000, rounded).astype(np.uint32).view(np.float32)
    if np.isinf(rounded[np.isfinite(x)]).any():
        raise FloatingPointError("a number is too large for bfloat16")
    return rounded


# ---- the tokenizer


class Decoder(Tokenizer):
    """A tokenizer that turns ids into text, and no text into ids: nobody knows its merges.

    >>> tokenizer = Decoder([b"a", b" b", b"<end>"], end=2, source="gpt2_tokenizer.bin")
    >>> tokenizer.decode([0, 1]), tokenizer.special_tokens
    ('a b', {'<end>': 2})
    """

    def __init__(self, pieces: list[bytes], end: int, source: object) -> None:
        text = pieces[end].decode("utf-8", "backslashreplace")
        super().__init__([], {}, [AddedToken(text, end, special=True)], dict(enumerate(pieces)))
        self.n_ordinary, self.source = len(pieces), source

    def encode_part(self, text: str, allow_special: bool = False) -> list[int]:
        """Raise TokenError: there is no way from a text to ids."""
        raise TokenError(
            f"{self.source} decodes only, as it has no merges, and its tokens are not GPT-2's: put the tokenizer's "
            f"vocab.json and merges.txt beside it, name a tokenizer (--tokenizer), or give ids"
        )


def _end_of_text(path: Path) -> int:
    """Return the id of end-of-text that the file of a tokenizer says; GPT-2's where there is none."""
    try:
        with opened(path) as file:
            values = read_header(path, file.read(4 * HEADER), TOKENIZER, (1, 2))
    except CheckpointError:  # which whoever asks for the tokenizer will be told, if it is there
        return GPT2_END
    return values[3] if values[1] == 2 else GPT2_END


def _tokenizer(path: Path, n_vocab: int) -> Tokenizer | None:
    if path.exists():
        return read_tokenizer(path)
    return gpt2() if n_vocab == GPT2_LENGTH else None


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a gpt2_tokenizer.bin.

    Returns GPT-2's tokenizer where its tokens are GPT-2's, else a Decoder.
    Raises CheckpointError where it is damaged or of another kind.
    """
    raw = read_small(path)
    values = read_header(path, raw[: 4 * HEADER], TOKENIZER, (1, 2))
    count, end = values[2], values[3] if values[1] == 2 else GPT2_END
    if not 1 <= count <= MAX_TOKENS or not 0 <= end < count:
        what = f"{count:,} tokens, of which {end:,} is end-of-text, expected 1 to {MAX_TOKENS:,} and one of them"
        raise wrong(path, what)
    if sha256(raw[4 * HEADER :]).hexdigest() == GPT2_TOKENS:
        return gpt2()
    pieces, at = [], 4 * HEADER
    for i in range(count):
        length = int.from_bytes(raw[at : at + 1], "little")
        piece = raw[at + 1 : at + 1 + length]
        if not 0 < len(piece) == length:
            raise wrong(path, f"token {i:,} of {length} bytes, {len(piece)} of them there, expected 1 to 255")
        pieces.append(piece)
        at += 1 + length
    if at != len(raw):
        raise wrong(path, f"{len(raw):,} bytes, expected {at:,}, where the last token ends")
    return Decoder(pieces, end, path)

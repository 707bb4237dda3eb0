"""Write any checkpoint that numgpt reads as one GGUF file, which llama.cpp runs; gguf.py describes the format.

GGUF has no words for a GPT-2 that departs from OpenAI's in its activation or in how it scales scores: llama.cpp would
run it without a fault and give other logits. So such a model is refused, and so is a tokenizer that llama.cpp would
follow otherwise.

Matrices and the token embedding are written in the chosen type; positions, gains and biases stay F32, as llama.cpp's
converter and quantiser have it, and its kernels need it.

Source: ggml-org/llama.cpp, conversion/gpt2.py, gguf-py/gguf/gguf_writer.py and src/llama-quant.cpp.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.disk import written_whole
from numgpt.checkpoint.files import CHUNK, brief, place_of, wrong
from numgpt.checkpoint.gguf import FURTHER_ENDS, NAMES, SCALARS, STRING
from numgpt.checkpoint.gguf_tokens import UNUSED, to_lists
from numgpt.checkpoint.names import hub_name
from numgpt.checkpoint.quants import BLOCKS, TYPES, pack, stored_bytes
from numgpt.checkpoint.reading import Unreadable, find_tokenizer, fit_tokenizer
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.checks import check_option
from numgpt.config import Config
from numgpt.fast.tokenizer import Tokenizer

DTYPES = ("F32", "F16", "Q8_0")
ALIGNMENT = 32
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}  # general.file_type
U32, I32, F32, BOOL, ARRAY = 4, 5, 6, 7, 9  # types of values
FOLDER = "write a folder, which holds all of it"


class Planned(NamedTuple):
    """A tensor that is to be written: its name and shape in the file, and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    tensor: LazyTensor
    turned: bool  # the file has the transpose


def write_gguf(
    checkpoint: Opened, tensors: dict[str, LazyTensor], config: Config, path: Path, dtype: str | None = None
) -> None:
    """Write a checkpoint as a GGUF file.

    checkpoint  as `open_checkpoint` returns it
    tensors, config  of it, as `match_params` returns them
    path        the file, which takes its name when it is whole
    dtype       of the matrices: "F32", "F16" or "Q8_0"; None: the one that they have in the source, F32 for blocks
    Raises CheckpointError for a model or a tokenizer that GGUF can't describe, with the reason, and where the source is
    damaged or the file can't be written; OptionError for another dtype.
    """
    check_option("dtype", dtype, dtype in (None, *DTYPES), f"{', '.join(DTYPES)}, or None for that of the source")
    _check_config(checkpoint.weights, config)
    tokenizer = find_tokenizer(checkpoint)
    if isinstance(tokenizer, Unreadable):
        raise tokenizer.error
    fit_tokenizer(config, tokenizer, checkpoint.weights.parent)
    plan = [_plan(checkpoint.weights, leaf, tensor, dtype) for leaf, tensor in tensors.items()]
    pairs = [*_sizes(config, plan), *_vocabulary(checkpoint.weights, tokenizer, config)]
    head = _head(pairs, plan)
    with written_whole(path) as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for tensor in plan:
            count = 0
            for packed in _strips(checkpoint.weights, tensor):
                count += file.write(packed)
            file.write(bytes(-count % ALIGNMENT))


def _check_config(source: Path, config: Config) -> None:
    """Refuse what GGUF has no key for."""
    for key, expected in (
        ("activation_function", ("gelu_new", "gelu_pytorch_tanh")),
        ("scale_attn_weights", (True,)),
        ("scale_attn_by_inverse_layer_idx", (False,)),
    ):
        value = getattr(config, key)
        if value not in expected:
            what = f"{key} is {value!r}, expected {expected[0]!r}: GGUF can't say so, and llama.cpp computes the latter"
            raise wrong(source, what, FOLDER)


def _plan(source: Path, leaf: str, tensor: LazyTensor, dtype: str | None) -> Planned:
    """Choose name, shape and type of a leaf of the parameter tree."""
    theirs = {hub: name for name, hub in NAMES.items()}
    parts = hub_name(leaf).split(".")
    layer = parts[1] if parts[0] == "h" else ""
    if layer:
        parts[1] = "#"
    name = f"{theirs['.'.join(parts[:-1])]}.{parts[-1]}".replace("#", layer)
    turned = bool(layer) and len(tensor.shape) == 2
    shape = tensor.shape[::-1] if turned else tensor.shape
    own = tensor.dtype if tensor.dtype in FILE_TYPES else "F32"
    kind = "F32" if len(shape) == 1 or leaf == "wpe" else dtype or own
    if shape[-1] % (length := BLOCKS[TYPES[kind]].length):
        what = f"rows of {shape[-1]} numbers, expected a multiple of {length} for {kind}"
        raise wrong(place_of(source, leaf), what, "choose F16")
    return Planned(name, shape, kind, tensor, turned)


def _strips(source: Path, x: Planned) -> Iterable[bytes]:
    """Read a tensor, and yield its bytes in the file, some rows at a time."""
    array = x.tensor.read()
    rows = (array.T if x.turned else array).reshape(-1, x.shape[-1])
    step = max(1, CHUNK // x.shape[-1])
    for i in range(0, len(rows), step):
        try:
            yield pack(x.dtype, rows[i : i + step]).tobytes()
        except FloatingPointError:
            what = f"has a number that is too large or none, expected those that {x.dtype} can hold"
            raise wrong(place_of(source, x.name), what, "choose F32") from None


# ---- the pairs

Pair = tuple[str, int, Any]  # key, type, value; the type of an array is that of its elements, its value a list


def _sizes(config: Config, plan: list[Planned]) -> list[Pair]:
    main = next(x.dtype for x in plan if x.name == "token_embd.weight")
    pairs: list[Pair] = [
        ("general.architecture", STRING, "gpt2"),
        ("general.type", STRING, "model"),
        ("general.file_type", U32, FILE_TYPES[main]),
        ("gpt2.vocab_size", U32, config.n_vocab),
        ("gpt2.context_length", U32, config.n_ctx),
        ("gpt2.embedding_length", U32, config.n_embd),
        ("gpt2.feed_forward_length", U32, config.mlp_width),
        ("gpt2.block_count", U32, config.n_layer),
        ("gpt2.attention.head_count", U32, config.n_head),
        ("gpt2.attention.layer_norm_epsilon", F32, config.layer_norm_epsilon),
    ]
    return pairs + ([("general.quantization_version", U32, 2)] if main == "Q8_0" else [])


def _vocabulary(source: Path, tokenizer: Tokenizer | None, config: Config) -> list[Pair]:
    """Describe the tokenizer. A model without one still runs, on ids."""
    keys = ("tokenizer.ggml.eos_token_id", *FURTHER_ENDS)
    bos, ends = config.start_id, [i for i in (config.eos_token_id, *config.more_eos_ids) if i is not None]
    if len(ends) > len(keys):
        raise wrong(source, f"{len(ends)} ids that end a text, expected {len(keys)} at most", FOLDER)
    ids: list[Pair] = [(key, U32, i) for key, i in zip(keys, ends, strict=False)]
    ids += [] if bos is None else [("tokenizer.ggml.bos_token_id", U32, bos)]
    if tokenizer is None:
        return [("tokenizer.ggml.model", STRING, "none"), *ids]
    if bos is None or not ends:
        raise wrong(source, "no id of end-of-text, expected one: without, llama.cpp takes 11, a comma", FOLDER)
    if not tokenizer.vocabulary:
        raise wrong(
            source, "its tokenizer has no pieces of bytes to merge, expected some: llama.cpp has no other", FOLDER
        )
    stripping = [token.text for token in tokenizer.added.values() if token.lstrip or token.rstrip]
    around = tokenizer.before not in ([], [bos]) or tokenizer.after not in ([], ends[:1])
    for fault, happens in (
        (f"{brief(stripping[0])} takes the space beside it" if stripping else "", stripping),
        ("puts a space before a text", tokenizer.add_prefix_space),
        ("puts other tokens around a text than those that begin and end it", around),
        ("merges no word that is a piece", tokenizer.ignore_merges),
    ):
        if happens:
            raise wrong(source, f"its tokenizer {fault}, expected none that does: llama.cpp does not", FOLDER)
    tokens, types, merges = to_lists(tokenizer, config.n_vocab)
    used = [token for token, kind in zip(tokens, types, strict=True) if kind != UNUSED]
    if len(set(used)) < len(used):
        twice = next(token for token in used if used.count(token) > 1)
        raise wrong(source, f"two ids are both spelt {brief(twice)}, expected one each", FOLDER)
    return [
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", STRING, tokens),
        ("tokenizer.ggml.token_type", I32, types),
        ("tokenizer.ggml.merges", STRING, merges),
        *ids,
        ("tokenizer.ggml.add_bos_token", BOOL, bool(tokenizer.before)),
        ("tokenizer.ggml.add_eos_token", BOOL, bool(tokenizer.after)),
    ]


# ---- the container


def _head(pairs: list[Pair], plan: list[Planned]) -> bytes:
    """Return all that stands before the data."""
    head = [b"GGUF", _number(U32, 3), _size(len(plan)), _size(len(pairs))]
    for key, kind, value in pairs:
        many = isinstance(value, list)
        head += [_string(key), _number(U32, ARRAY if many else kind)]
        head += [_number(U32, kind), _size(len(value))] if many else []
        head += [_string(x) if kind == STRING else _number(kind, x) for x in (value if many else [value])]
    offset = 0
    for x in plan:
        head += [_string(x.name), _number(U32, len(x.shape)), *map(_size, x.shape[::-1])]
        head += [_number(U32, TYPES[x.dtype]), _size(offset)]
        size = stored_bytes(x.dtype, int(np.prod(x.shape)))
        offset += size + -size % ALIGNMENT
    return b"".join(head)


def _number(kind: int, x: Any) -> bytes:
    return np.array(x, SCALARS[kind]).tobytes()


def _size(n: int) -> bytes:
    return n.to_bytes(8, "little")


def _string(text: str) -> bytes:
    raw = text.encode()
    return _size(len(raw)) + raw

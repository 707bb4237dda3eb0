"""llm.c's debug state, such as gpt2_124M_debug_state.bin: inputs of a model with its logits, its loss, its gradients.

Little-endian throughout. After a header of 256 int32, those that are not named being 0, all follows without gaps:

    20240327, version, B, S     the header: so many texts, of so many tokens each
    x          [B, S] int32     the ids that go in
    y          [B, S] int32     those that follow each
    logits     [B, S, V] f32    of x, without padding
    loss       f32              the mean cross-entropy of y, in nats
    gradients  f32              of the loss, by each tensor of a model file, in its order and layout

checkpoint/llmc.py describes that order. In version 2 the gradient of wte has as many rows as the model file's wte, V
rounded up to 128; those past V are 0. In version 1 it has V. The file says no sizes of the model: they are those of
the model that goes with it.

Source: karpathy/llm.c, train_gpt2.py (write_state) and test_gpt2.c. Where we are stricter: a file ends where the sizes
say, and all ids are of the vocabulary.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from numgpt.checkpoint.disk import written_whole
from numgpt.checkpoint.files import opened, read_array, version_of, wrong
from numgpt.checkpoint.formats import look_at
from numgpt.checkpoint.llmc import (
    DEBUG_STATE,
    HEADER,
    header,
    is_mine,
    layout,
    padded_rows,
    read_header,
    write_tensors,
)
from numgpt.checkpoint.tensors import LazyTensor, tensor_of
from numgpt.config import Config

VERSION = 2  # the one that is written
OTHER = "choose another model"
MISFIT = "give the model that it was made of; if it is that, the file is damaged"


class State(NamedTuple):
    """A debug state, whose tensors still lie in the file."""

    path: Path
    x: np.ndarray  # [B, S] int32
    y: np.ndarray
    tensors: dict[str, LazyTensor]  # "logits" and "loss"; then gradients, by the Hub's names of the parameters


def is_llmc(path: Path) -> bool:
    """Tell whether a file is one of llm.c: a debug state, or another, which `read_state` names."""
    return is_mine(look_at(path))


def read_state(path: Path, config: Config) -> State:
    """Open a debug state of a model.

    config  of the model, whose sizes say what is where
    Returns the State. Its gradients have the shapes of the file: matrices [out, in], wte with its padding.
    Raises CheckpointError where the file is another, is damaged, or is of a model of other sizes.
    """
    with opened(path) as file:
        version = version_of(file)
        values = read_header(path, file.read(4 * HEADER), DEBUG_STATE, (1, VERSION))
    check_tensors(config, path)
    B, S = values[2:4]
    if B < 1 or not 1 <= S <= config.n_ctx:
        fault = f"{B:,} texts of {S:,} tokens, expected 1 or more, of 1 to {config.n_ctx:,}, the context of this model"
        raise wrong(path, fault, MISFIT)
    n_rows = padded_rows(config.n_vocab) if values[1] == VERSION else config.n_vocab
    shapes = {"x": (B, S), "y": (B, S), "logits": (B, S, config.n_vocab), "loss": (), **layout(config, n_rows)}
    at, places = 4 * HEADER, {}
    for name, shape in shapes.items():
        places[name] = at
        at += 4 * int(np.prod(shape, dtype=object))
    if version[0] != at:
        sizes = f"{config.n_vocab:,} tokens, a context of {config.n_ctx:,}, {config.n_layer} layers of {config.n_embd}"
        fault = f"{version[0]:,} bytes, expected {at:,} for {B:,} x {S:,} ids and a model of {sizes}"
        raise wrong(path, fault, MISFIT)
    ids = {name: read_array(path, version, f"{path}: {name}", "I32", (B, S), places[name]) for name in ("x", "y")}
    for name, array in ids.items():
        outside = np.argwhere((array < 0) | (array >= config.n_vocab))
        if len(outside):
            b, s = map(int, outside[0])
            fault = f"{name}[{b}, {s}] is {array[b, s]}, expected 0 to {config.n_vocab - 1}, the vocabulary"
            raise wrong(path, fault, MISFIT)
    tensors = {}
    for name in shapes.keys() - ids.keys():
        read = partial(read_array, path, version, f"{path}: {name}", "F32", shapes[name], places[name])
        tensors[name] = LazyTensor("F32", shapes[name], read)
    return State(path, ids["x"], ids["y"], tensors)


def write_state(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    logits: np.ndarray,
    loss: float,
    grads: Mapping[str, np.ndarray],
    config: Config,
) -> None:
    """Write a debug state, of version 2.

    path    it takes its name when it is whole, and what was there stays until then
    x, y    [B, S] int
    logits  [B, S, V]
    grads   of the loss, by the Hub's names of the parameters and in its layout: matrices [in, out]
    config  of the model
    Raises CheckpointError for a model that llm.c does not have, for numbers that float32 does not have, and where the
    file can't be written.
    """
    check_tensors(config, path)
    gelu = config.activation_function.replace("gelu_pytorch_tanh", "gelu_new")
    computed = config._replace(activation_function=gelu)
    for name in "activation_function", "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx":
        if (value := getattr(computed, name)) != (expected := getattr(Config(), name)):
            raise wrong(path, f"{name} of this model is {value!r}, expected {expected!r}, which llm.c computes", OTHER)
    for name, array in {"logits": logits, "loss": np.asarray(loss), **grads}.items():
        if not abs(array).max() <= np.finfo(np.float32).max:  # also where it is no number
            raise wrong(path, f"{name} has a number that is none in float32, expected finite ones", OTHER)
    with written_whole(path) as file:
        file.write(header(DEBUG_STATE, VERSION, *x.shape))
        for array, dtype in (x, "<i4"), (y, "<i4"), (logits, "<f4"), (np.asarray(loss), "<f4"):
            file.write(np.ascontiguousarray(array, dtype).data)
        tensors = {name: tensor_of(x, name) for name, x in grads.items()}
        write_tensors(file, tensors, config, padded_rows(config.n_vocab))


def check_tensors(config: Config, source: Path) -> None:
    """Raise CheckpointError where a model has other parameters than llm.c has: a head of its own, or another MLP."""
    F = 4 * config.n_embd
    if config.mlp_width != F:
        raise wrong(source, f"n_inner of this model is {config.mlp_width}, expected {F}, as llm.c has it", OTHER)
    if not config.tie_word_embeddings:
        raise wrong(source, "this model has an output head of its own, expected wte to be it, as in llm.c", OTHER)

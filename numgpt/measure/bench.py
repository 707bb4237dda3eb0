"""Measure a model on this machine, beside what the machine could do at best.

A token made alone needs every parameter once, so memory sets its pace; a prompt multiplies each parameter by many
positions, so arithmetic does. Both limits are measured in the same run, in turns with the model, so that a slow phase
of the machine meets all. Other work on it lowers the shares, too: threads of BLAS wait for each other at each product.
"""

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.hub.loading import load, load_tokenizer
from numgpt.measure.machine import describe_machine, free_bytes, peak_bytes
from numgpt.model import Model, Params
from numgpt.params import count_params, leaves

PACKAGE = Path(__file__).parent.parent


class Sizes(NamedTuple):
    """How much is measured. What the context of a model has no room for is cut."""

    rounds: int = 5
    past: int = 32  # tokens before those that are made one by one
    steps: int = 64  # of those; a batch makes a quarter
    batch: int = 8
    prompts: tuple[int, ...] = (128, 1024)
    characters: int = 200_000
    read_bytes: int = 1 << 29  # at most a quarter of the memory that is free
    product: int = 2048  # rows and columns


class Work(NamedTuple):
    """Something to measure."""

    amount: float  # what a run gets through: tokens, characters, bytes, operations
    run: Callable[[], float]  # returns its seconds
    about: str
    limit: Callable[[float, float], float] | None = None  # the most of it a second, from bandwidth and rate


class Figure(NamedTuple):
    """A speed or a size that was measured: a row of the table."""

    value: float | None  # None where it can't be told
    unit: str
    about: str
    limit: float | None = None  # in the same unit
    share: float | None = None  # 1 is at the limit


# ---- the limits of a model


def decode_numbers(config: Config) -> int:
    """Count the parameters that one step of decoding reads.

        params - n_ctx C     all but wpe; the head [V, C] counts once, tied to wte or not

    Notes: of wpe, and of a wte that is not the head, a step reads one row a text. Keys and values are left out: after
    100 tokens they are 1 to 2 % of it.

    >>> decode_numbers(Config())
    123653376
    """
    return count_params(config._replace(tie_word_embeddings=True)) - config.n_ctx * config.n_embd


def decode_limit(config: Config, itemsize: float, bandwidth: float, rate: float, n: int = 1) -> float:
    """Return the most tokens/s that n texts can get together, one token each a step.

        n / max(itemsize params / bandwidth, 2 n params / rate)     params: decode_numbers

    itemsize   bytes of a parameter, on average
    bandwidth  bytes/s
    rate       floating-point operations/s, in the dtype that is computed in
    A batch reads the parameters once for all texts, and computes for each. One text has bandwidth / bytes.
    """
    params = decode_numbers(config)
    return n / max(itemsize * params / bandwidth, 2 * n * params / rate)


def prefill_flops(config: Config, T: int) -> int:
    """Count the least floating-point operations that turn T tokens into keys, values and the logits of the last.

        a layer         2 P T + 4 C T (T + 1) / 2      P: its parameters; scores and averages over what each token sees
        the last layer  2 K T + 2 (P - K) + 4 C T      K = 2 C (C + 1): those of keys and values; what comes after them
        the head        2 V C                          for one token alone

    >>> f"{prefill_flops(Config(), T=128):.3g}"
    '2.06e+10'
    """
    C, L = config.n_embd, config.n_layer
    P = count_params(config._replace(n_layer=1)) - count_params(config._replace(n_layer=0))
    K = 2 * C * (C + 1)
    return (L - 1) * (2 * P * T + 2 * C * T * (T + 1)) + 2 * K * T + 2 * (P - K) + 4 * C * T + 2 * config.n_vocab * C


def prefill_limit(config: Config, rate: float, T: int) -> float:
    """Return the most tokens/s of a prompt of T: T rate / prefill_flops."""
    return T * rate / prefill_flops(config, T)


# ---- what is run


def clock(function: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


def decode(model: Model, past: int, steps: int, n: int = 1) -> Work:
    """Make tokens one by one for n texts, always the likeliest, after some at random."""
    config, params, _ = model
    dtype, past = params["wte"].dtype, max(1, min(past, config.n_ctx // 2))
    steps = min(steps, config.n_ctx - past)
    caches = [KVCache(config, dtype, past + steps) for _ in range(n)]

    def forward(texts: Any) -> list[np.ndarray]:
        if n == 1:
            return [fast.forward(texts[0], params, config, caches[0], logits_to_keep=1)]
        return fast.forward_batch(texts, params, config, caches, logits_to_keep=1)

    first = forward(np.random.default_rng(0).integers(config.n_vocab, size=(n, past)))

    def make() -> None:
        logits = first
        for _ in range(steps):
            logits = forward([[int(row[-1].argmax())] for row in logits])

    def run() -> float:
        for cache in caches:
            cache.truncate(past)
        return clock(make)

    about = f"{n} texts at once, tokens of all" if n > 1 else f"one by one, after {past} tokens"
    itemsize = weight_bytes(params) / count_params(config)
    return Work(n * steps, run, about, lambda bandwidth, rate: decode_limit(config, itemsize, bandwidth, rate, n))


def weight_bytes(params: Params) -> int:
    """Count the bytes that parameters take, in whatever they are kept."""
    return sum(leaf.nbytes for _, leaf in leaves(params))


def prefill(model: Model, T: int) -> Work:
    """Read a prompt of T tokens at random into an empty cache."""
    config, params, _ = model
    ids = np.random.default_rng(0).integers(config.n_vocab, size=T)

    def run() -> float:
        return clock(fast.forward, ids, params, config, KVCache(config, params["wte"].dtype, T), 1)

    return Work(T, run, "a prompt, up to its last logits", lambda _, rate: prefill_limit(config, rate, T))


def encode(path: Path, text: str, **how: Any) -> Work:
    """Encode a text by a tokenizer that has seen no word of it."""

    def run() -> float:
        tokenizer = load_tokenizer(path, **how)
        assert tokenizer
        tokenizer.encode("a")  # at the first text, GPT-2's makes its tables
        return clock(tokenizer.encode, text)

    return Work(len(text), run, f"{len(text):,} characters, read for the first time")


def alone(model: Model, sizes: Sizes) -> dict[str, Work]:
    """What is measured of one text."""
    prompts = sorted({min(T, model.config.n_ctx) for T in sizes.prompts})
    work = {"decode": decode(model, sizes.past, sizes.steps)}
    return work | {f"prefill {T}": prefill(model, T) for T in prompts}


def together(model: Model, sizes: Sizes) -> dict[str, Work]:
    """What is measured of several texts."""
    return {f"batch of {sizes.batch}": decode(model, sizes.past, sizes.steps // 4, sizes.batch)}


def own_source() -> str:
    """Return the source of numgpt, a text that is always at hand. A tokenizer is about as fast on it as on prose."""
    return "".join(file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py")))


def machine_work(dtype: np.dtype, sizes: Sizes) -> dict[str, Work]:
    """Read much more memory than the caches hold, in two ways, and multiply two matrices."""
    free = free_bytes()
    size = min(sizes.read_bytes, free // 4 if free else 1 << 28)
    matrix = np.ones((max(1, size // (4096 * dtype.itemsize)), 4096), dtype)  # zeros might be no memory at all
    parts = np.array_split(matrix.reshape(-1), os.cpu_count() or 1)
    n = sizes.product
    square = np.ones((n, n), dtype)

    def read_by_threads() -> float:
        with ThreadPoolExecutor(len(parts)) as pool:
            return clock(lambda: list(pool.map(np.max, parts)))

    read = f"{matrix.nbytes / 1e6:.3g} MB, read by BLAS or by threads"
    return {
        "BLAS": Work(matrix.nbytes, lambda: clock(np.matmul, matrix, matrix[0]), read),
        "threads": Work(matrix.nbytes, read_by_threads, read),
        "product": Work(2 * n**3, lambda: clock(np.matmul, square, square), f"{n} x {n} each, {dtype}"),
    }


# ---- the report


def measure(path: Path, sizes: Sizes | None = None, weights: str | None = None, **how: Any) -> dict[str, Any]:
    """Measure the checkpoint at a path, and the machine.

    weights  in what the weights are kept, as `load` takes it; None: as they are, and beside that in int8
    how      what else `load` takes: the base of an adapter, n_head and the like

    Returns what `numgpt bench --json` prints, less the model's name and the notes:
      parameters, weight_bytes, dtype  of the checkpoint in memory
      rounds                           each speed is the median of so many
      machine                          cpu, cpus, python, numpy, blas {name, version, kernel, threads, config}
      figures                          name -> {value, unit, about, limit, share}, see Figure; the names: load, decode,
                                       prefill 128, prefill 1024 (or the context), batch of 8, each once more with
                                       ", int8", peak memory, tokenizer characters, tokenizer tokens, memory
                                       bandwidth, matrix product; and memory int8: of the weights alone
    What can't be told is None. Raises what `load` raises.
    """
    sizes = sizes or Sizes()
    loads = [clock(load, path, weights=weights, **how) for _ in range(1 + sizes.rounds)]
    model = load(path, weights=weights, **how)
    config, dtype = model.config, model.params["wte"].dtype
    size = weight_bytes(model.params)

    work = alone(model, sizes)
    for item in work.values():
        item.run()  # once to warm up
    peak = peak_bytes()  # that of one text
    work |= together(model, sizes)
    in_8_bits = load(path, weights="int8", **how) if weights is None and dtype == np.float32 else None
    if in_8_bits:
        work |= {f"{name}, int8": item for name, item in (alone(in_8_bits, sizes) | together(in_8_bits, sizes)).items()}
    text = own_source()[: sizes.characters]
    others = machine_work(dtype, sizes) | ({"encode": encode(path, text, **how)} if model.tokenizer else {})
    every = work | others
    rounds = [{name: item.run() for name, item in every.items()} for _ in range(sizes.rounds)]
    rates = {name: item.amount / statistics.median(r[name] for r in rounds) for name, item in every.items()}
    bandwidth, rate = max(rates["BLAS"], rates["threads"]), rates["product"]

    figures = {"load": Figure(statistics.median(loads[1:]), "s", "not the first time: the file is in the page cache")}
    for name, item in work.items():
        limit = item.limit(bandwidth, rate) if item.limit else None
        figures[name] = Figure(rates[name], "tokens/s", item.about, limit, limit and rates[name] / limit)
    about = "one text at a time; limit: the weights"
    figures["peak memory"] = Figure(peak and peak / 1e6, "MB", about, size / 1e6, peak and size / peak)
    if in_8_bits:
        figures["weights, int8"] = Figure(weight_bytes(in_8_bits.params) / 1e6, "MB", "what they take in 8 bits")
    speed, tokens, about = None, None, "no tokenizer lies beside the weights"
    if model.tokenizer:
        speed, about = rates["encode"], others["encode"].about
        tokens = speed * len(model.tokenizer.encode(text)) / len(text)
    figures["tokenizer characters"] = Figure(speed, "chars/s", about)
    figures["tokenizer tokens"] = Figure(tokens, "tokens/s", about)
    figures["memory bandwidth"] = Figure(bandwidth / 1e9, "GB/s", others["BLAS"].about)
    figures["matrix product"] = Figure(rate / 1e9, "GFLOP/s", others["product"].about)
    return {
        "parameters": count_params(config),
        "weight_bytes": size,
        "weights": weights,
        "dtype": str(dtype),
        "rounds": sizes.rounds,
        "machine": describe_machine(),
        "figures": {name: figure._asdict() for name, figure in figures.items()},
    }

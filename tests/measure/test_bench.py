"""The bench: its limits are worked by hand, its clock is one that the tests set, and no timing decides anything."""

import ctypes
import os
import sys
from itertools import pairwise

import numpy as np
import pytest
from support.checkpoints import CONFIG, TOKENS, hub_tensors, write_checkpoint, write_tokenizer

import numgpt
from numgpt.cli.figures import table
from numgpt.config import Config
from numgpt.measure import bench, machine

# C = 4, F = 16. A layer has 16 numbers in two layer norms, 60 in c_attn, 20 and 80 and 68 in the others: 244.
# The model: wte 36, wpe 20, two layers 488, ln_f 8.
SMALL = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=2, eos_token_id=None)
TINY = bench.Sizes(rounds=3, past=2, steps=4, batch=3, prompts=(5, 100), characters=500, read_bytes=1 << 17, product=16)
FIGURES = [
    "load", "decode", "prefill 5", "prefill 7", "batch of 3",
    "decode, int8", "prefill 5, int8", "prefill 7, int8", "batch of 3, int8", "peak memory", "weights, int8",
    "tokenizer characters", "tokenizer tokens", "memory bandwidth", "matrix product",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of 7 positions, with a tokenizer."""
    return write_tokenizer(write_checkpoint(tmp_path, hub_tensors(TOKENS), {**CONFIG, "vocab_size": TOKENS}))


@pytest.fixture
def half_a_second(monkeypatch):
    """A clock by which everything takes half a second."""

    def clock(function, *arguments, **options):
        function(*arguments, **options)
        return 0.5

    monkeypatch.setattr(bench, "clock", clock)


# ---- limits


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 36 + 488 + 8),
        ({"n_ctx": 100}, 36 + 488 + 8),
        ({"tie_word_embeddings": False}, 36 + 488 + 8),  # the head is read, wte is not
        ({"n_layer": 1}, 36 + 244 + 8),
    ],
)
def test_a_step_reads_all_parameters_but_the_positions_and_the_head_once(changes, expected):
    assert bench.decode_numbers(SMALL._replace(**changes)) == expected


def test_one_text_waits_for_memory_and_a_large_batch_for_arithmetic():
    bandwidth, rate = 2128.0 * 10, 2 * 532.0 * 40  # 10 passes over the parameters a second, 40 rows
    assert bench.decode_limit(SMALL, 4, bandwidth, rate) == pytest.approx(10)
    assert bench.decode_limit(SMALL, 4, bandwidth, rate, n=3) == pytest.approx(30)
    assert bench.decode_limit(SMALL, 4, bandwidth, rate, n=8) == pytest.approx(40)
    assert bench.decode_limit(SMALL, 8, bandwidth, rate) == pytest.approx(5)


@pytest.mark.parametrize(
    ("n_layer", "T", "expected"),
    [
        # one layer: keys and values 2*40 a token; the rest of it 2*204, attention 4*4 a key, the head 2*36
        (1, 1, 80 + 408 + 16 + 72),
        (1, 3, 3 * 80 + 408 + 3 * 16 + 72),
        # a layer before it: 2*244 a token, attention 4*4 for each of 1 + 2 + 3 keys seen
        (2, 3, 3 * 488 + 6 * 16 + 3 * 80 + 408 + 3 * 16 + 72),
        (3, 3, 2 * (3 * 488 + 6 * 16) + 3 * 80 + 408 + 3 * 16 + 72),
    ],
)
def test_a_prompt_computes_the_last_layer_for_its_last_token_alone(n_layer, T, expected):
    config = SMALL._replace(n_layer=n_layer)
    assert bench.prefill_flops(config, T) == expected
    assert bench.prefill_limit(config, rate=expected * 10.0, T=T) == pytest.approx(10 * T)


# ---- what is run


@pytest.mark.parametrize("n", [1, 3])
def test_decoding_goes_on_with_the_likeliest_tokens_and_each_round_is_the_same(folder, monkeypatch, n):
    model = numgpt.load(folder)
    seen = []

    def spied(texts, params, config, caches, logits_to_keep):
        held = [len(cache) for cache in caches]
        seen.append((held, [list(map(int, text)) for text in texts]))
        rows = [
            numgpt.forward(text, params, config, cache=cache, logits_to_keep=logits_to_keep)
            for text, cache in zip(texts, caches, strict=True)
        ]
        seen[-1] += ([int(row[-1].argmax()) for row in rows],)
        return rows

    def single(ids, params, config, cache, logits_to_keep):
        return spied([ids], params, config, [cache], logits_to_keep)[0]

    monkeypatch.setattr(bench.fast, "forward", single)
    monkeypatch.setattr(bench.fast, "forward_batch", spied)
    work = bench.decode(model, past=2, steps=4, n=n)
    assert work.amount == 4 * n
    work.run()
    work.run()
    assert [held for held, _, _ in seen] == [[past] * n for past in (0, 2, 3, 4, 5, 2, 3, 4, 5)]
    assert seen[1:5] == seen[5:]
    for (_, _, likeliest), (_, texts, _) in pairwise(seen[:5]):
        assert texts == [[i] for i in likeliest]


def test_what_the_context_has_no_room_for_is_cut(folder):
    model = numgpt.load(folder)
    assert bench.decode(model, past=32, steps=64).amount == 4  # 3 of 7 positions before them
    assert list(bench.measure(folder, TINY)["figures"]) == FIGURES


def test_each_round_of_the_tokenizer_is_the_first(folder, monkeypatch):
    made, timed = [], []
    monkeypatch.setattr(bench, "load_tokenizer", lambda path: made.append(numgpt.load(path).tokenizer) or made[-1])

    def clock(function, text):
        timed.append((function.__self__, text))
        assert list(function.__self__._memory) == ["a"]  # its tables are made, and it has seen no word of the text
        return 1.0

    monkeypatch.setattr(bench, "clock", clock)
    work = bench.encode(folder, "hi hi, high")
    assert work.run() == work.run() == 1.0
    assert work.amount == 11
    assert timed == [(tokenizer, "hi hi, high") for tokenizer in made]
    assert made[0] is not made[1]


def test_the_matrix_takes_at_most_a_quarter_of_the_memory_that_is_free(monkeypatch):
    sizes = bench.Sizes(read_bytes=1 << 20, product=2)
    amounts = {}
    for free in (None, "1024", "1048576"):  # in kB
        monkeypatch.setattr(machine, "find_in_file", lambda file, pattern, free=free: free)
        amounts[free] = bench.machine_work(np.dtype("float64"), sizes)["BLAS"].amount
    assert amounts == {None: 1 << 20, "1024": 1 << 18, "1048576": 1 << 20}


# ---- the report


def test_figures_are_amounts_by_time_and_shares_by_limits(folder, half_a_second, monkeypatch):
    monkeypatch.setattr(bench, "peak_bytes", lambda: 4 * 9032)
    report = bench.measure(folder, TINY)
    figures = report["figures"]
    values = {name: row["value"] for name, row in figures.items()}
    assert values["load"] == 0.5
    assert values["prefill 5"] == 10
    assert values["prefill 7"] == 14
    assert values["memory bandwidth"] == pytest.approx(2 * 2**17 / 1e9)
    assert values["matrix product"] == pytest.approx(2 * 2 * 16**3 / 1e9)
    assert values["decode"] == 8
    assert values["batch of 3"] == 6  # a quarter of the steps
    # 258 * 6 of wte, two layers of 2 * 12 + 6 * 18 + 18 + 6 * 6 + 6 + 60 + 10 + 60 + 6, 12 of ln_f
    streamed = 1548 + 2 * 328 + 12
    assert report["parameters"] == streamed + 42
    assert report["weight_bytes"] == 4 * (streamed + 42)
    assert report["dtype"] == "float32"
    assert report["rounds"] == 3
    compute = 2 * 2 * 16**3 / (2 * streamed)  # rows a second: so small a product is slower than memory
    assert figures["decode"]["limit"] == pytest.approx(compute)
    assert figures["decode"]["about"] == "one by one, after 2 tokens"
    assert figures["batch of 3"]["about"] == "3 texts at once, tokens of all"
    assert figures["decode"]["share"] == pytest.approx(8 / compute)
    assert figures["batch of 3"]["limit"] == pytest.approx(compute)
    assert figures["tokenizer characters"]["value"] == 1000
    assert 500 < figures["tokenizer tokens"]["value"] <= 1000  # bytes, but for the "hi"
    assert figures["peak memory"]["limit"] == pytest.approx(0.009032)  # MB: 2258 numbers
    assert figures["peak memory"]["share"] == pytest.approx(0.25)


def test_figures_are_medians_of_rounds_and_the_first_load_is_left_out(folder, monkeypatch):
    loads = iter([1000.0, 1.0, 90.0, 2.0])
    products = iter([1.0, 1.0, 90.0, 90.0, 2.0, 2.0])  # in each round with a vector, then of the square
    clock = bench.clock

    def set_clock(function, *arguments, **options):
        times = {bench.load: loads, np.matmul: products}.get(function)
        return next(times) if times else clock(function, *arguments)

    monkeypatch.setattr(bench, "clock", set_clock)
    figures = bench.measure(folder, TINY)["figures"]
    assert figures["load"]["value"] == 2.0
    assert figures["matrix product"]["value"] == pytest.approx(16**3 / 1e9)


def test_float64_counts_eight_bytes(tmp_path):
    tensors = {name: x.astype(np.float64) for name, x in hub_tensors().items()}
    report = bench.measure(write_checkpoint(tmp_path, tensors), TINY)
    assert report["dtype"] == "float64"
    assert report["weight_bytes"] == 8 * report["parameters"]
    assert "float64" in report["figures"]["matrix product"]["about"]


def test_weights_in_8_bits_are_measured_beside_float32_or_alone(folder):
    beside, alone = bench.measure(folder, TINY), bench.measure(folder, TINY, weights="int8")
    assert [name for name in alone["figures"] if "int8" in name] == []
    assert beside["figures"]["weights, int8"]["value"] == pytest.approx(alone["weight_bytes"] / 1e6)
    assert alone["figures"]["decode"]["limit"] > 0


def test_without_a_tokenizer_its_figures_are_none(tmp_path):
    figures = bench.measure(write_checkpoint(tmp_path), TINY)["figures"]
    assert list(figures) == FIGURES
    for name in "tokenizer characters", "tokenizer tokens":
        assert figures[name]["value"] is None
        assert figures[name]["about"] == "no tokenizer lies beside the weights"


def test_nothing_global_is_changed(folder):
    def state():
        kind, keys, *rest = np.random.get_state()
        threads = machine.ask_openblas("num_threads", ctypes.c_int)
        return dict(os.environ), np.geterr(), kind, keys.tolist(), rest, threads

    before = state()
    bench.measure(folder, TINY)
    assert state() == before


def test_where_nothing_can_be_told_it_is_none(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr(machine, "find_in_file", lambda file, pattern: None)
    monkeypatch.setattr(machine, "ask_openblas", lambda what, kind: None)
    monkeypatch.setattr(machine.platform, "processor", str)
    monkeypatch.setattr(np, "show_config", lambda mode: {})
    report = bench.measure(folder, TINY)
    memory = report["figures"]["peak memory"]
    assert (memory["value"], memory["share"]) == (None, None)
    assert report["machine"]["cpu"] is None
    assert set(report["machine"]["blas"].values()) == {None}
    lines = table({"model": "it", **report, "notes": []}).splitlines()
    assert lines[1].startswith("unknown processor, CPUs: ")
    assert lines[2].endswith("BLAS: unknown, kernel: unknown, threads: unknown")
    assert [line.split()[:4] for line in lines if line.startswith("peak")] == [["peak", "memory", "unknown", "MB"]]

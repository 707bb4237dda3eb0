"""The bench: its limits are worked by hand, its clock is one that the tests set, and no timing decides anything."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from support.checkpoints import CONFIG, TOKENS, hub_tensors, write_checkpoint, write_tokenizer

import numgpt
from numgpt.cli import main as cli
from numgpt.config import Config
from numgpt.measure import bench

# C = 4, F = 16. A layer has 16 numbers in two layer norms, 60 in c_attn, 20 and 80 and 68 in the others: 244.
# The model: wte 36, wpe 20, two layers 488, ln_f 8.
SMALL = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=2, eos_token_id=None)
TINY = bench.Sizes(rounds=3, past=2, steps=4, batch=3, prompts=(5, 100), characters=500, read_bytes=1 << 17, product=16)
FIGURES = [
    "load", "decode", "prefill 5", "prefill 7", "batch of 3", "peak memory", "tokenizer characters", "tokenizer tokens",
    "memory bandwidth", "matrix product",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of 7 positions, with a tokenizer."""
    return write_tokenizer(write_checkpoint(tmp_path, hub_tensors(TOKENS), {**CONFIG, "vocab_size": TOKENS}))


@pytest.fixture
def half_a_second(monkeypatch):
    """A clock by which everything takes half a second."""

    def clock(function, *arguments):
        function(*arguments)
        return 0.5

    monkeypatch.setattr(bench, "clock", clock)


# ---- limits


@pytest.mark.parametrize(
    ("changes", "itemsize", "expected"),
    [
        ({}, 4, 4 * (36 + 488 + 8)),
        ({}, 8, 8 * (36 + 488 + 8)),
        ({"n_ctx": 100}, 4, 4 * (36 + 488 + 8)),
        ({"tie_word_embeddings": False}, 4, 4 * (36 + 488 + 8)),  # the head is read, wte is not
        ({"n_layer": 1}, 4, 4 * (36 + 244 + 8)),
    ],
)
def test_a_step_reads_all_parameters_but_the_positions_and_the_head_once(changes, itemsize, expected):
    assert bench.decode_bytes(SMALL._replace(**changes), itemsize) == expected


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
        monkeypatch.setattr(bench, "search", lambda file, pattern, free=free: free)
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

    def set_clock(function, *arguments):
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


def test_without_a_tokenizer_its_figures_are_none(tmp_path):
    figures = bench.measure(write_checkpoint(tmp_path), TINY)["figures"]
    assert list(figures) == FIGURES
    for name in "tokenizer characters", "tokenizer tokens":
        assert figures[name]["value"] is None
        assert figures[name]["about"] == "no tokenizer lies beside the weights"


def test_nothing_global_is_changed(folder):
    def state():
        kind, keys, *rest = np.random.get_state()
        return dict(os.environ), np.geterr(), kind, keys.tolist(), rest, bench.ask_openblas("num_threads", ctypes.c_int)

    before = state()
    bench.measure(folder, TINY)
    assert state() == before


def test_notes_tell_of_other_work_the_cache_and_a_forced_kernel(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert bench.notes(497_759_232, 2.0) == []
    (note,) = bench.notes(497_759_232, 2.31)
    assert note.startswith("the load average was 2.3 at the start")
    (note,) = bench.notes(23_674_880, 0.0)
    assert note.startswith("23.7 MB of weights can stay in the processor's cache")
    assert note.endswith("may exceed their limits")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    (note,) = bench.notes(497_759_232, 0.0)
    assert note.startswith("OPENBLAS_CORETYPE=Prescott is set")


# ---- the machine


def test_memory_is_read_from_linux_itself_and_elsewhere_in_the_units_of_the_system(monkeypatch):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=3000))
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(bench, "search", lambda file, pattern: "7")
    assert bench.peak_bytes() == 7 * 1024
    monkeypatch.setattr(bench, "search", lambda file, pattern: None)
    for platform, expected in ("darwin", 3000), ("freebsd", 3000 * 1024):
        monkeypatch.setattr(sys, "platform", platform)
        assert bench.peak_bytes() == expected


def test_the_load_average_is_told_where_there_is_one(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 1.0, 0.5), raising=False)
    assert bench.load_average() == 2.5
    monkeypatch.delattr(os, "getloadavg")
    assert bench.load_average() == 0.0


def test_where_nothing_can_be_told_it_is_none(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr(bench, "search", lambda file, pattern: None)
    monkeypatch.setattr(bench, "blas_files", list)
    monkeypatch.setattr(bench.platform, "processor", str)
    monkeypatch.setattr(np, "show_config", lambda mode: {})
    report = bench.measure(folder, TINY)
    memory = report["figures"]["peak memory"]
    assert (memory["value"], memory["share"]) == (None, None)
    assert report["machine"]["cpu"] is None
    assert set(report["machine"]["blas"].values()) == {None}
    lines = bench.table({"model": "it", **report}).splitlines()
    assert lines[1].startswith("unknown processor, CPUs: ")
    assert lines[2].endswith("BLAS: unknown, kernel: unknown, threads: unknown")
    assert [line.split()[:4] for line in lines if line.startswith("peak")] == [["peak", "memory", "unknown", "MB"]]


def test_a_file_without_a_pattern_or_none_at_all_finds_nothing(tmp_path):
    file = tmp_path / "cpuinfo"
    assert bench.search(str(file), r"model name\s*:\s*(.+)") is None
    file.write_text("processor\t: 0\n")
    assert bench.search(str(file), r"model name\s*:\s*(.+)") is None
    file.write_text("processor\t: 0\nmodel name\t: Abacus 9\nmodel name\t: Abacus 9\n")
    assert bench.search(str(file), r"model name\s*:\s*(.+)") == "Abacus 9"


@pytest.mark.parametrize(
    "symbol",
    [
        "scipy_openblas_get_corename64_",
        "scipy_openblas_get_corename",
        "openblas_get_corename64_",
        "openblas_get_corename",
    ],
)
def test_openblas_is_asked_by_any_of_its_names(monkeypatch, symbol):
    def answer():
        return b"Zen"

    libraries = {"other": SimpleNamespace(), "it": SimpleNamespace(**{symbol: answer})}

    def open_library(file):
        if file == "gone":
            raise OSError(file)
        return libraries[file]

    monkeypatch.setattr(bench, "blas_files", lambda: ["gone", "other", "it"])
    monkeypatch.setattr(ctypes, "CDLL", open_library)
    assert bench.ask_openblas("corename", ctypes.c_char_p) == "Zen"
    assert answer.restype is ctypes.c_char_p
    assert bench.ask_openblas("num_threads", ctypes.c_int) is None


def test_what_is_no_openblas_answers_none(monkeypatch, tmp_path):
    (tmp_path / "text").write_text("no library")
    module = importlib.util.find_spec("numpy.random._common").origin
    monkeypatch.setattr(bench, "blas_files", lambda: [str(tmp_path / "text"), module])
    assert bench.ask_openblas("corename", ctypes.c_char_p) is None


def test_the_openblas_in_numpys_wheels_tells_its_kernel():
    blas = bench.describe_machine()["blas"]
    if blas["name"] != "scipy-openblas":
        pytest.skip(f"NumPy was built with {blas['name']}, not with the OpenBLAS of its wheels")
    assert blas["config"].startswith("OpenBLAS ")
    assert blas["kernel"] in blas["config"].split()
    assert blas["threads"] >= 1


# ---- the command

REPORT = {
    "model": "gpt2",
    "parameters": 124_439_808,
    "weight_bytes": 497_759_232,
    "dtype": "float32",
    "rounds": 5,
    "machine": {
        "cpu": "Abacus 9",
        "cpus": 2,
        "python": "3.12.1",
        "numpy": "2.4.6",
        "blas": {"name": "scipy-openblas", "version": "0.3.31", "kernel": "Zen", "threads": 2, "config": "OpenBLAS"},
    },
    "figures": {
        "load": {"value": 0.3111, "unit": "s", "about": "again", "limit": None, "share": None},
        "prefill 1024": {"value": 1234.5, "unit": "tokens/s", "about": "a prompt", "limit": 2469.0, "share": 0.5},
        "tokenizer tokens": {"value": None, "unit": "tokens/s", "about": "none", "limit": None, "share": None},
    },
    "notes": ["beware"],
}


def test_the_table_is_aligned_and_has_units_limits_and_shares():
    assert bench.table(REPORT).splitlines() == [
        "gpt2: 124,439,808 parameters in float32, 498 MB",
        "Abacus 9, CPUs: 2",
        "Python 3.12.1, NumPy 2.4.6, BLAS: scipy-openblas 0.3.31, kernel: Zen, threads: 2",
        "",
        "                       measured             limit  share",
        "load                      0.311 s                         again",
        "prefill 1024              1,234 tokens/s    2,469    50%  a prompt",
        "tokenizer tokens        unknown tokens/s                  none",
        "",
        "Medians of 5 rounds. Memory bandwidth limits decode, the matrix product prefill, one of the two a batch.",
        "Note: beware.",
    ]


@pytest.fixture
def tiny(monkeypatch):
    """Have the command measure next to nothing."""
    monkeypatch.setattr(bench, "Sizes", lambda: TINY)


def test_the_command_prints_the_table(capsys, folder, tiny):
    assert cli.main(["bench", "-m", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{folder}: 2,258 parameters in float32, ")
    assert [name for name in FIGURES if f"\n{name:<20}" in out] == FIGURES
    assert err.startswith("numgpt: measuring")
    assert err.count("\n") == 1


def test_the_command_speaks_json(capsys, folder, tiny):
    assert cli.main(["bench", "-m", str(folder), "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    assert set(report) == set(REPORT)
    assert report["model"] == str(folder)
    assert set(report["machine"]) == set(REPORT["machine"])
    assert set(report["machine"]["blas"]) == set(REPORT["machine"]["blas"])
    assert all(set(row) == {"value", "unit", "about", "limit", "share"} for row in report["figures"].values())


def test_a_model_that_is_not_there_fails_as_elsewhere(capsys):
    assert cli.main(["bench", "-m", "./nowhere"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("numgpt: error: no checkpoint './nowhere'")


def test_other_commands_do_not_pay_for_it():
    code = "import sys, numgpt.cli; sys.exit('numgpt.bench' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

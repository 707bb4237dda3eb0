"""`numgpt bench`: what it shows of its figures, to people and to programs."""

import json
import os

import pytest
from support.checkpoints import CONFIG, TOKENS, hub_tensors, write_checkpoint, write_tokenizer
from support.cli import call, fails

from numgpt.cli.figures import notes, table
from numgpt.measure import bench

TINY = bench.Sizes(rounds=3, past=2, steps=4, batch=3, prompts=(5, 100), characters=500, read_bytes=1 << 17, product=16)
FIGURES = [
    "load", "decode", "prefill 5", "prefill 7", "batch of 3", "peak memory", "tokenizer characters", "tokenizer tokens",
    "memory bandwidth", "matrix product",
]  # fmt: skip
REPORT = {
    "model": "gpt2",
    "parameters": 124_439_808,
    "weight_bytes": 497_759_232,
    "weights": None,
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
    "cpu_quota": None,
    "notes": ["beware"],
}


def test_the_table_is_aligned_and_has_units_limits_and_shares():
    assert table(REPORT).splitlines() == [
        "gpt2: 124,439,808 parameters in float32, 498 MB",
        "Abacus 9, CPUs: 2",
        "Python 3.12.1, NumPy 2.4.6, BLAS: scipy-openblas 0.3.31, kernel: Zen, threads: 2",
        "2 threads; OPENBLAS_NUM_THREADS sets them",
        "",
        "                       measured             limit  share",
        "load                      0.311 s                         again",
        "prefill 1024              1,234 tokens/s    2,469    50%  a prompt",
        "tokenizer tokens        unknown tokens/s                  none",
        "",
        "Medians of 5 rounds. Memory bandwidth limits decode, the matrix product prefill, one of the two a batch.",
        "Note: beware.",
    ]


def test_notes_tell_of_other_work_the_cache_and_a_forced_kernel(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert notes(497_759_232, 2.0) == []
    (note,) = notes(497_759_232, 2.31)
    assert note.startswith("the load average was 2.3 at the start")
    (note,) = notes(23_674_880, 0.0)
    assert note.startswith("23.7 MB of weights can stay in the processor's cache")
    assert note.endswith("may exceed their limits")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    (note,) = notes(497_759_232, 0.0)
    assert note.startswith("OPENBLAS_CORETYPE=Prescott is set")


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of 7 positions, with a tokenizer."""
    return write_tokenizer(write_checkpoint(tmp_path, hub_tensors(TOKENS), {**CONFIG, "vocab_size": TOKENS}))


@pytest.fixture
def tiny(monkeypatch):
    """Have the command measure next to nothing."""
    monkeypatch.setattr(bench, "Sizes", lambda: TINY)


def test_the_command_prints_the_table(capsys, folder, tiny):
    code, out, err = call(capsys, "bench", "-m", folder)
    assert code == 0
    assert out.startswith(f"{folder}: 2,258 parameters in float32, ")
    assert [name for name in FIGURES if f"\n{name:<20}" in out] == FIGURES
    assert err.startswith("numgpt: measuring")
    assert err.count("\n") == 1


def test_the_command_speaks_json(capsys, folder, tiny):
    code, out, err = call(capsys, "bench", "-m", folder, "--json", "-q")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert set(report) == set(REPORT)
    assert report["model"] == str(folder)
    assert set(report["machine"]) == set(REPORT["machine"])
    assert set(report["machine"]["blas"]) == set(REPORT["machine"]["blas"])
    assert all(set(row) == {"value", "unit", "about", "limit", "share"} for row in report["figures"].values())


def test_a_model_that_is_not_there_fails_as_elsewhere(capsys):
    assert fails(capsys, "bench", "-m", "./nowhere").startswith("numgpt: error: no checkpoint './nowhere'")

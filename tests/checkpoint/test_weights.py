"""Weights that are kept in 8 or in 16 bits, from files of several formats."""

import json
import tracemalloc

import numpy as np
import pytest
from support.checkpoints import bf16, hub_tensors, write_checkpoint
from support.cli import call, fails
from support.ggufs import KEYS, Tensor, f32, renamed
from support.ggufs import write as write_gguf

import numgpt
from numgpt.apps.jobs import fingerprint
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.gguf import read_gguf
from numgpt.cli import main as cli
from numgpt.errors import OptionError
from numgpt.fast.matrices import Half, Int8
from numgpt.hub.loading import locate
from numgpt.measure.comparing import compare
from numgpt.params import leaves

MATRICES = ("wte", "lm_head", "attn.c_attn.w", "attn.c_proj.w", "mlp.c_fc.w", "mlp.c_proj.w")


def is_matrix(path):
    return path.endswith(MATRICES)


@pytest.fixture(scope="module")
def q8(tmp_path_factory):
    """The storyteller as a GGUF file of Q8_0."""
    return convert(locate("storyteller"), tmp_path_factory.mktemp("q8") / "storyteller.gguf", dtype="Q8_0")


def test_the_matrices_are_rounded_and_all_else_is_float32():
    plain, kept = (dict(leaves(numgpt.load("storyteller", weights=w).params)) for w in (None, "int8"))
    assert list(plain) == list(kept)
    for path, x in kept.items():
        assert isinstance(x, Int8) == is_matrix(path), path
        assert x.shape == plain[path].shape
        assert x.dtype == np.float32
        if is_matrix(path):
            assert np.abs(np.asarray(x) - plain[path]).max() <= np.abs(plain[path]).max() / 110
            assert x.nbytes < 0.29 * plain[path].nbytes
        else:
            np.testing.assert_array_equal(x, plain[path])


@pytest.mark.parametrize(("store", "kind"), [(lambda x: x.astype(np.float16), "F16"), (bf16, "BF16")])
def test_halfs_are_kept_as_the_file_has_them(tmp_path, store, kind):
    tensors = {name: store(x) if name != "h.1.attn.c_proj.weight" else x for name, x in hub_tensors().items()}
    folder = write_checkpoint(tmp_path / kind, tensors)
    plain, kept = (dict(leaves(numgpt.load(folder, weights=w).params)) for w in (None, "keep"))
    for path, x in kept.items():
        assert isinstance(x, Half) == (is_matrix(path) and path != "h.1.attn.c_proj.w"), path
        np.testing.assert_array_equal(np.asarray(x), plain[path])
        if isinstance(x, Half):
            assert (x.kind, x.nbytes) == (kind, plain[path].nbytes / 2)
            assert x.widen().flags.c_contiguous == plain[path].flags.c_contiguous  # it is multiplied as ever


def test_a_half_that_is_not_finite_stays_in_float32(tmp_path):
    tensors = {name: x.astype(np.float16) for name, x in hub_tensors().items()}
    tensors["h.0.mlp.c_fc.weight"][1, 1] = np.inf
    params = dict(leaves(numgpt.load(write_checkpoint(tmp_path, tensors), weights="keep").params))
    assert [path for path, x in params.items() if is_matrix(path) and not isinstance(x, Half)] == ["h.0.mlp.c_fc.w"]


def test_blocks_of_a_gguf_file_are_taken_over_bit_for_bit(q8):
    taken, rounded = (dict(leaves(numgpt.load(q8, weights=w).params)) for w in ("int8", None))
    stored = read_gguf(q8)[1]
    blocks = np.frombuffer(q8.read_bytes(), np.uint8, count=34 * 4096 * 8, offset=stored["token_embd.weight"].at)
    blocks = blocks.reshape(4096, 8, 34)
    wte = taken["wte"]
    np.testing.assert_array_equal(wte.q.reshape(256, 4096).T.reshape(4096, 8, 32), blocks[..., 2:].view(np.int8))
    np.testing.assert_array_equal(wte.scales.T[..., None], blocks[..., :2].copy().view(np.float16).astype(np.float32))
    for path, x in taken.items():
        assert isinstance(x, Int8) == is_matrix(path)
        np.testing.assert_array_equal(np.asarray(x), rounded[path], err_msg=path)


def test_blocks_that_no_rounding_would_give_are_taken_over_too(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"vocab_size": 11, "n_positions": 7, "n_embd": 32, "n_layer": 1, "n_inner": 64}
    tensors = {name: f32(x) for name, x in renamed(hub_tensors(**sizes)).items()}
    packed = np.zeros((11, 34), np.uint8)
    packed[:, :2] = np.full((11, 1), 0.25, np.float16).view(np.uint8)
    packed[:, 2:] = rng.integers(-128, 3, (11, 32), np.int8).view(np.uint8)  # the largest is not 127
    tensors["token_embd.weight"] = Tensor((11, 32), 8, packed.tobytes())
    keys = KEYS | {"gpt2.embedding_length": 32, "gpt2.block_count": 1, "gpt2.feed_forward_length": 64}
    path = write_gguf(tmp_path / "m.gguf", keys, tensors)
    wte = numgpt.load(path, weights="int8").params["wte"]
    np.testing.assert_array_equal(wte.widen(), 0.25 * packed[:, 2:].view(np.int8).astype(np.float32))


def test_the_whole_model_is_never_there_in_float32():
    numgpt.load("storyteller", weights="int8")
    size = sum(x.nbytes for _, x in leaves(numgpt.load("storyteller").params))
    tracemalloc.start()
    try:
        numgpt.load("storyteller", weights="int8").params["wte"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * size


def test_other_weights_and_float64_are_refused():
    with pytest.raises(OptionError, match="weights is 'int4', expected int8 or keep, or None"):
        numgpt.load("storyteller", weights="int4")
    with pytest.raises(OptionError, match="dtype is 'float64', expected float32 or none"):
        numgpt.load("storyteller", weights="int8", dtype="float64")


def test_jobs_tell_models_of_different_weights_apart():
    assert len({fingerprint(numgpt.load("storyteller", weights=w)) for w in (None, "int8", "keep")}) == 3


def test_perplexity_stays_within_half_a_percent():
    text = (locate("storyteller") / "val.txt").read_text(encoding="utf-8")[:2000]
    found = compare(numgpt.load("storyteller"), numgpt.load("storyteller", weights="int8"), text)
    assert abs(found.perplexity_of_other / found.perplexity - 1) < 0.005
    assert found.same_first > 0.97
    assert found.kl_mean < 0.001


# ---- the command line


@pytest.mark.parametrize("weights", ["int8", "keep"])
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "Once upon a time", "-n", "8", "--seed", "1"],
        ["score", "Once upon a time"],
        ["trace", "Once upon a time", "--names", "ln_f"],
        ["explain", "Once upon a time", "-o", "-"],
    ],
    ids=lambda command: command[0],
)
def test_each_command_takes_them(capsys, command, weights):
    code, out, err = call(capsys, *command, "--weights", weights)
    assert code == 0, err
    assert out


def test_score_shows_what_they_cost(capsys):
    code, out, _ = call(capsys, "score", "Once upon a time there was a king.", "--compare-weights", "int8", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["tokens"] == 10
    assert abs(found["perplexity_of_other"] / found["perplexity"] - 1) < 0.02
    assert 0 < found["kl_mean"] <= found["kl_99"] < 0.01
    assert found["same_first"] == 1
    shown = call(capsys, "score", "Once upon a time there was a king.", "--compare-weights", "keep")[1]
    assert "perplexity, keep" in shown
    assert "+0.00 %" in shown


@pytest.mark.parametrize("option", [["--stride", "3"], ["--weights", "int8"], ["--context", "9"]])
def test_what_does_not_go_with_a_comparison_is_refused(capsys, option):
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", "Once", "--compare-weights", "int8", *option])
    assert ended.value.code == 2
    assert f"{option[0]} does not go with --compare-weights" in capsys.readouterr().err


def test_float64_is_refused_in_a_line(capsys):
    told = fails(capsys, "score", "Once upon", "--weights", "int8", "--dtype", "float64")
    assert "--dtype is 'float64', expected float32 or none" in told

"""numgpt verify against llama.cpp, which is told as what it is."""

import pathlib

import llama_cpp
import numpy as np
import pytest
from conformance.test_verify import assert_told, folders, script, verified  # noqa: F401  (folders is a fixture)
from support.checkpoints import hub_tensors, write_checkpoint

import numgpt

peers = script("bench/peers.py")


@pytest.mark.parametrize("cache", ["float32", "default"])
@pytest.mark.parametrize("which", ["wide", "trained"])
def test_llama_cpp_is_told_by_its_table_of_gelu(folders, which, cache, tmp_path):  # noqa: F811
    """It looks GELU up in a table of half precision, also where all weights are float32; and so we say.

    Its keys and values are kept in half precision too, unless it is asked not to.
    """
    folder, ids = folders[which]
    peers.make_gguf(folder, tmp_path / "model.gguf")
    kinds = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32} if cache == "float32" else {}
    model = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=32, logits_all=True, verbose=False, **kinds)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)])
    assert_told(verified({"logits": logits}, folder, ids), "logits", "half-precision table .* llama.cpp")


@pytest.mark.parametrize("seed", range(6))
def test_int8_loses_no_more_than_llama_cpp_does_with_its_own(seed, tmp_path):
    """Of a model that is as hard to round as real ones are: some rows and columns are 20 times the others."""
    dice = np.random.default_rng(seed)

    def drawn(x):
        if x.ndim < 2:
            return x / 64  # from -1/32 to 1/32
        x = dice.normal(scale=0.05, size=x.shape).astype(np.float32)
        x[dice.choice(len(x), len(x) // 50, replace=False)] *= 20
        x[:, dice.choice(x.shape[1], x.shape[1] // 50, replace=False)] *= 20
        return x

    tensors = hub_tensors(vocab_size=320, n_positions=64, n_embd=128, n_layer=3, n_inner=512)
    sizes = {"vocab_size": 320, "n_positions": 64, "n_embd": 128, "n_layer": 3, "n_head": 4}
    write_checkpoint(tmp_path, {name: drawn(x) for name, x in tensors.items()}, {"model_type": "gpt2", **sizes})
    peers.make_gguf(tmp_path, tmp_path / "f32.gguf")
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    files = [str(tmp_path / name).encode() for name in ("f32.gguf", "q8.gguf")]
    assert llama_cpp.llama_model_quantize(*files, how) == 0

    ids = dice.integers(320, size=60)
    exact = numgpt.load(tmp_path, dtype="float64")
    logits = numgpt.forward(ids, exact.params, exact.config)
    theirs = llama_cpp.Llama(str(tmp_path / "q8.gguf"), n_ctx=64, logits_all=True, verbose=False)
    theirs.eval(ids.tolist())

    ours = numgpt.load(tmp_path, weights="int8")
    lost = numgpt.fast.forward(ids, ours.params, ours.config) - logits
    assert 0 < np.std(lost) <= np.std(np.array(theirs.scores[: len(ids)]) - logits)


@pytest.mark.parametrize(
    ("count", "flash", "words"),
    [
        (40, False, "without flash attention"),
        (40, True, "values added up in float16, as in llama.cpp's flash attention of less than 64 tokens"),
        (200, False, "without flash attention"),
        (200, True, "keys and values in float16, as in llama.cpp's flash attention of 64 tokens or more"),
    ],
)
def test_flash_attention_is_told(folders, tmp_path, count, flash, words):  # noqa: F811
    """Its keys and values are in float16 in any case; what else is rounded depends on how many tokens come at once."""
    folder, _ = folders["trained"]
    text = (pathlib.Path(numgpt.__file__).parent.parent / "weights/storyteller/val.txt").read_text(encoding="utf-8")
    ids = numgpt.load(folder).tokenizer.encode(text[:4000])[:count]
    peers.make_gguf(folder, tmp_path / "model.gguf")
    model = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=512, logits_all=True, verbose=False, flash_attn=flash)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)])
    assert_told(verified({"logits": logits}, folder, ids), "logits", f"half-precision table .* {words}")

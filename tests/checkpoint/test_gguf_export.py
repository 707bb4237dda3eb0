"""GGUF, written: what it holds, what comes back, and what is refused with the reason."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support import ggufs
from support.checkpoints import CONFIG, TOKENS, bf16, hub_tensors, write_checkpoint, write_json, write_tokenizer
from support.readers import refusal

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.gguf import read_gguf
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.cli import main as cli
from numgpt.errors import CheckpointError, OptionError
from numgpt.hub.loading import locate
from numgpt.params import leaves

WIDE = {"vocab_size": TOKENS + 2, "n_positions": 7, "n_embd": 64, "n_inner": 32, "n_layer": 1}
SETTINGS = {**CONFIG, **WIDE, "eos_token_id": 257, "bos_token_id": 256}


@pytest.fixture
def source(tmp_path):
    """A checkpoint with a tokenizer, and two rows that stand for nothing."""
    return write_tokenizer(write_checkpoint(tmp_path / "source", hub_tensors(**WIDE), SETTINGS))


def assert_same(one, other):
    """The same config, and every weight the same."""
    assert one.config == other.config
    for (path, x), (name, y) in zip(leaves(one.params), leaves(other.params), strict=True):
        assert path == name
        assert_array_equal(x, y, err_msg=path)


def matrices(stored):
    return {x.block.name for name, x in stored.items() if len(x.shape) == 2 and name != "position_embd.weight"}


def vectors(stored):
    return {x.block.name for name, x in stored.items() if len(x.shape) == 1 or name == "position_embd.weight"}


def test_a_file_is_what_a_writer_after_the_format_writes(source, tmp_path):
    """Byte for byte, with the pairs in our order."""
    read = read_gguf(convert(source, tmp_path / "m.gguf"))[0]
    keys = {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.file_type": 0,
        "gpt2.vocab_size": TOKENS + 2,
        "gpt2.context_length": 7,
        "gpt2.embedding_length": 64,
        "gpt2.feed_forward_length": 32,
        "gpt2.block_count": 1,
        "gpt2.attention.head_count": 2,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
        **ggufs.tokenizer(TOKENS + 2),
    }
    del keys["tokenizer.ggml.bos_token_id"]
    keys |= {"tokenizer.ggml.bos_token_id": 256, "tokenizer.ggml.add_bos_token": False}
    keys |= {"tokenizer.ggml.add_eos_token": False}
    assert list(read) == list(keys)
    tensors = {name: ggufs.f32(x) for name, x in ggufs.renamed(hub_tensors(**WIDE)).items()}
    assert (tmp_path / "m.gguf").read_bytes() == ggufs.gguf(keys, tensors)


@pytest.mark.parametrize("dtype", [None, "F32", "F16"])
def test_nothing_is_lost_there_and_back(source, tmp_path, dtype):
    file = convert(source, tmp_path / "m.gguf", dtype=dtype)
    assert matrices(read_gguf(file)[1]) == {dtype or "F32"}
    assert vectors(read_gguf(file)[1]) == {"F32"}
    folder = convert(file, tmp_path / "back")
    assert_same(numgpt.load(folder), numgpt.load(source))
    assert (folder / "merges.txt").read_text() == (source / "merges.txt").read_text()
    for name, key in ("vocab.json", None), ("config.json", "bos_token_id"), ("config.json", "eos_token_id"):
        one, other = (json.loads((place / name).read_text(encoding="utf-8")) for place in (folder, source))
        assert (one[key] == other[key]) if key else (one == other)
    assert open_checkpoint(folder).tensors["transformer.wte.weight"].dtype == (dtype or "F32")
    again = convert(folder, tmp_path / "again.gguf")
    assert read_gguf(again)[1].keys() == read_gguf(file)[1].keys()
    assert_same(numgpt.load(again), numgpt.load(source))


@pytest.mark.parametrize(("store", "dtype"), [(bf16, "BF16"), (lambda x: x.astype(np.float16), "F16")])
def test_without_a_dtype_matrices_keep_theirs(tmp_path, store, dtype):
    source = write_checkpoint(tmp_path / "source", {name: store(x) for name, x in hub_tensors().items()})
    file = convert(source, tmp_path / "m.gguf")
    assert matrices(read_gguf(file)[1]) == {dtype}
    assert vectors(read_gguf(file)[1]) == {"F32"}
    params = dict(leaves(numgpt.load(file).params))
    for path, x in leaves(numgpt.load(source).params):
        assert_array_equal(params[path], x, err_msg=path)


def test_q8_0_is_within_half_a_step(source, tmp_path):
    file = convert(source, tmp_path / "m.gguf", dtype="Q8_0")
    keys, stored = read_gguf(file)
    assert matrices(stored) == {"Q8_0"}
    assert vectors(stored) == {"F32"}
    assert (keys["general.file_type"], keys["general.quantization_version"]) == (7, 2)
    expected = dict(leaves(numgpt.load(source).params))
    for path, x in leaves(numgpt.load(file).params):
        step = abs(expected[path]).max() / 127
        assert abs(x - expected[path]).max() <= step * 0.51
    with pytest.raises(AssertionError):
        assert_array_equal(x, expected["wte"])
    back = convert(file, tmp_path / "back")  # what came out of blocks is float32
    assert open_checkpoint(back).tensors["transformer.wte.weight"].dtype == "F32"
    assert_same(numgpt.load(back), numgpt.load(file))


def test_an_untied_head_is_kept(tmp_path):
    tensors = hub_tensors() | {"lm_head.weight": np.ones((11, 6), np.float32)}
    source = write_checkpoint(tmp_path / "source", tensors)
    file = convert(source, tmp_path / "m.gguf")
    assert_array_equal(numgpt.load(file).params["lm_head"], tensors["lm_head.weight"])
    assert "output.weight" not in read_gguf(convert(write_checkpoint(tmp_path / "tied"), tmp_path / "t.gguf"))[1]


def test_a_model_without_a_tokenizer_is_written_without(tmp_path):
    source = write_checkpoint(tmp_path / "source", config={**CONFIG, "eos_token_id": 3})
    file = convert(source, tmp_path / "m.gguf")
    assert read_gguf(file)[0]["tokenizer.ggml.model"] == "none"
    assert numgpt.load(file).tokenizer is None
    assert_same(numgpt.load(file), numgpt.load(source))


def test_added_tokens_are_kept(source, tmp_path):
    write_json(source / "added_tokens.json", {"<pad>": TOKENS, "<name>": TOKENS + 1})
    write_json(source / "special_tokens_map.json", {"pad_token": "<pad>"})
    file = convert(source, tmp_path / "m.gguf")
    for path in source, file, convert(file, tmp_path / "back"):
        made = numgpt.load(path).tokenizer
        assert made.special_tokens == {"<|endoftext|>": 257, "<pad>": TOKENS}
        assert made.encode("hi<name>hi<pad>", allow_special=True) == [256, TOKENS + 1, 256, TOKENS]
        assert made.decode(range(TOKENS + 2)) == numgpt.load(source).tokenizer.decode(range(TOKENS + 2))


def test_a_token_without_a_row_is_left_out(source, tmp_path):
    write_json(source / "added_tokens.json", {"<pad>": TOKENS + 9})
    write_json(source / "special_tokens_map.json", {"pad_token": "<pad>"})
    assert len(read_gguf(convert(source, tmp_path / "m.gguf"))[0]["tokenizer.ggml.tokens"]) == TOKENS + 2


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation_function": "gelu"}, "activation_function is 'gelu', expected 'gelu_new': GGUF can't say so, and"),
        ({"activation_function": "relu"}, "activation_function is 'relu', expected 'gelu_new'"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, expected True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, expected False"),
        ({"eos_token_id": None, "bos_token_id": None}, "no id of end-of-text, expected one: without, llama.cpp takes"),
    ],
)
def test_what_gguf_has_no_word_for_is_refused_with_the_reason(source, tmp_path, change, said):
    write_json(source / "config.json", {**SETTINGS, **change})
    assert said in refusal(source, lambda path: convert(path, tmp_path / "m.gguf"))
    assert not list(tmp_path.glob("*.gguf*"))


def test_the_other_name_of_gelu_new_is_taken(source, tmp_path):
    write_json(source / "config.json", {**SETTINGS, "activation_function": "gelu_pytorch_tanh"})
    assert numgpt.load(convert(source, tmp_path / "m.gguf")).config.activation_function == "gelu_new"


def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(source, tmp_path):
    write_json(source / "tokenizer_config.json", {"add_prefix_space": True})
    assert "puts a space before a text" in refusal(source, lambda path: convert(path, tmp_path / "m.gguf"))
    token = {"content": "<mask>", "special": True, "lstrip": True}
    write_json(source / "tokenizer_config.json", {"added_tokens_decoder": {str(TOKENS): token}})
    said = refusal(source, lambda path: convert(path, tmp_path / "m.gguf"))
    assert "its tokenizer '<mask>' takes the space beside it, expected none that does" in said


def test_rows_that_are_no_blocks_are_refused(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    said = refusal(source, lambda path: convert(path, tmp_path / "m.gguf", dtype="Q8_0"))
    assert "wte: rows of 6 numbers, expected a multiple of 32 for Q8_0: choose F16" in said


@pytest.mark.parametrize(("dtype", "number"), [("F16", 1e6), ("Q8_0", 1e9), ("Q8_0", np.nan)])
def test_numbers_that_are_too_large_are_refused(tmp_path, dtype, number):
    tensors = hub_tensors(**WIDE)
    tensors["h.0.mlp.c_fc.weight"][3, 4] = number
    source = write_checkpoint(tmp_path / "source", tensors, SETTINGS)
    said = refusal(source, lambda path: convert(path, tmp_path / "m.gguf", dtype=dtype))
    assert f"blk.0.ffn_up.weight: has a number that is too large or none, expected those that {dtype}" in said
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_file_that_is_there_stays(source, tmp_path):
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(CheckpointError, match=r"m\.gguf: is there already, expected a new file"):
        convert(source, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_a_dtype_is_for_a_file(source, tmp_path):
    with pytest.raises(OptionError, match=r"none but for a GGUF file: name the target FILE\.gguf"):
        convert(source, tmp_path / "folder", dtype="F16")
    with pytest.raises(OptionError, match=r"F32, F16, Q8_0, or None"):
        convert(source, tmp_path / "m.gguf", dtype="Q4_K")


def test_the_command_line_writes_a_file(tmp_path, capsys):
    path = tmp_path / "s.gguf"
    assert cli.main(["convert", "storyteller", str(path), "--dtype", "Q8_0"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    text = "Once upon a time there was a king, who  had 3 daughters.\n\n"
    assert numgpt.load(path).tokenizer.encode(text) == numgpt.load(locate("storyteller")).tokenizer.encode(text)
    with pytest.raises(SystemExit):
        cli.main(["convert", "storyteller", str(tmp_path / "t.gguf"), "--dtype", "Q4_K"])
    capsys.readouterr()

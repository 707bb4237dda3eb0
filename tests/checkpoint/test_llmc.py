"""llm.c's files: models of three versions, their tokenizer, what is written, and what is refused by name."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from support import llmcs
from support.checkpoints import CONFIG, TOKENS, hub_tensors, write_checkpoint, write_json, write_tokenizer
from support.llmcs import write
from support.readers import damaged, fault, fuzz, refusal

import numgpt
from numgpt.checkpoint import disk, llmc_export
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.formats import find_weights, look_at
from numgpt.checkpoint.llmc import open_weights, read_tokenizer, round_to_bf16
from numgpt.checkpoint.llmc_tokens import text_or_ids
from numgpt.checkpoint.names import match_params
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.cli import main as cli
from numgpt.errors import CheckpointError, OptionError, TokenError
from numgpt.hub.loading import load_tokenizer, locate
from numgpt.params import leaves

MODEL = hub_tensors(n_inner=24)
SETTINGS = {**CONFIG, "n_inner": None}
WITH_TOKENS = {**SETTINGS, "vocab_size": TOKENS + 2, "eos_token_id": 257, "bos_token_id": 257}
LETTERS = [bytes([byte]) for byte in range(256)] + [b"hi", b"<|endoftext|>"]
TOKENIZER = llmcs.tokenizer(LETTERS[:11], 10)


@pytest.fixture
def plain(tmp_path):
    """The Hub's folder of the same model, without a tokenizer."""
    return write_checkpoint(tmp_path / "plain", MODEL, SETTINGS)


@pytest.fixture
def source(tmp_path):
    """A checkpoint with a tokenizer, and two rows that stand for nothing."""
    tensors = hub_tensors(vocab_size=TOKENS + 2, n_inner=24)
    return write_tokenizer(write_checkpoint(tmp_path / "source", tensors, WITH_TOKENS))


def assert_same(one, other):
    """The same config, and every weight the same."""
    assert one.config == other.config
    for (path, x), (name, y) in zip(leaves(one.params), leaves(other.params), strict=True):
        assert path == name
        assert_array_equal(x, y, err_msg=path)


# ---- models, read


@pytest.mark.parametrize("version", [1, 3, 5])
def test_each_version_is_the_same_model(tmp_path, plain, version):
    path = write(tmp_path / "m.bin", llmcs.model(MODEL, version=version))
    assert_same(numgpt.load(path), numgpt.load(plain))
    opened = open_checkpoint(path)
    assert (opened.kind, opened.tensors["wte.weight"].dtype) == ("llm.c", "BF16" if version == 5 else "F32")
    assert opened.tensors["wte.weight"].shape == (11 if version == 1 else 128, 6)
    assert opened.tensors["h.1.mlp.c_fc.weight"].shape == (24, 6)


def test_numbers_lie_where_the_format_says(tmp_path):
    """Counted by hand for V = 3, T = 1, L = 2, C = 2: wte 6, wpe 2, and of each layer 2, 2, 12, 6, 4, 2, 2, 2, ..."""
    path = write(tmp_path / "m.bin", llmcs.header(20240326, 1, 1, 3, 2, 1, 2) + np.arange(160, dtype="<f4").tobytes())
    config, params, _ = numgpt.load(path)
    assert config[:5] == (3, 1, 2, 1, 2)
    first, second = params["h"]
    assert params["wte"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert params["wpe"].tolist() == [[6, 7]]
    assert (first["ln_1"]["g"].tolist(), second["ln_1"]["g"].tolist()) == ([8, 9], [10, 11])
    assert (first["ln_1"]["b"].tolist(), second["ln_1"]["b"].tolist()) == ([12, 13], [14, 15])
    assert first["attn"]["c_attn"]["w"].tolist() == [[16, 18, 20, 22, 24, 26], [17, 19, 21, 23, 25, 27]]
    assert second["attn"]["c_attn"]["w"][0].tolist() == [28, 30, 32, 34, 36, 38]
    assert second["attn"]["c_attn"]["b"].tolist() == [46, 47, 48, 49, 50, 51]
    assert second["attn"]["c_proj"]["w"].tolist() == [[56, 58], [57, 59]]
    assert first["mlp"]["c_fc"]["w"][1].tolist() == [73, 75, 77, 79, 81, 83, 85, 87]
    assert second["mlp"]["c_proj"]["w"][:, 1].tolist() == [144, 145, 146, 147, 148, 149, 150, 151]
    assert (params["ln_f"]["g"].tolist(), params["ln_f"]["b"].tolist()) == ([156, 157], [158, 159])


def test_rows_of_padding_do_not_count_whatever_is_in_them(tmp_path, plain):
    raw = bytearray(llmcs.model(MODEL))
    raw[1024 + 4 * 11 * 6 : 1024 + 4 * 128 * 6] = b"\xff" * (4 * 117 * 6)
    assert_same(numgpt.load(write(tmp_path / "m.bin", bytes(raw))), numgpt.load(plain))
    odd = write(tmp_path / "odd.bin", llmcs.model(MODEL, multiple=7))  # any padding, as C programs may choose another
    assert_same(numgpt.load(odd), numgpt.load(plain))


def test_float64_and_what_the_caller_says_count(tmp_path):
    path = write(tmp_path / "m.bin", llmcs.model(MODEL))
    model = numgpt.load(path, dtype="float64", n_head=3, eos_token_id=4)
    assert model.params["h"][0]["attn"]["c_attn"]["w"].dtype == np.float64
    assert (model.config.n_head, model.config.eos_token_id) == (3, 4)


def test_in_a_folder_the_other_files_of_llm_c_are_no_models(tmp_path):
    folder = tmp_path / "llm.c"
    folder.mkdir()
    write(folder / "gpt2_124M.bin", llmcs.model(MODEL))
    for name, raw in {
        "gpt2_tokenizer.bin": llmcs.tokenizer(LETTERS[:11], 10),
        "gpt2_124M_debug_state.bin": llmcs.header(20240327, 2),
        "state_00000100_00000.bin": llmcs.header(20240527, 1),
        "tiny_shakespeare_val.bin": llmcs.tokens([1, 2]),
    }.items():
        write(folder / name, raw)
    assert find_weights(folder).name == "gpt2_124M.bin"
    names = {file.name for file in convert(folder, tmp_path / "hub").iterdir()}
    assert {"model.safetensors", "gpt2_tokenizer.bin"} < names
    assert "gpt2_124M.bin" not in names
    write(folder / "gpt2_124M_bf16.bin", llmcs.model(MODEL, version=5))
    assert "found gpt2_124M.bin, gpt2_124M_bf16.bin, expected one" in refusal(folder, numgpt.load)


# ---- the tokenizer


def test_without_a_file_gpt2s_vocabulary_has_its_tokenizer_and_any_other_none(tmp_path):
    path = write(tmp_path / "m.bin", llmcs.model(hub_tensors(vocab_size=50257, n_inner=24)))
    assert numgpt.load(path).tokenizer.encode("Hello world") == [15496, 995]
    assert (numgpt.load(path).config.eos_token_id, numgpt.load(path).config.n_tokens) == (50256, 50257)
    write(tmp_path / "gpt2_tokenizer.bin", TOKENIZER)
    assert numgpt.load(path).config[-4:] == (10, 11, None, ())  # what ends a text, begins it too
    (tmp_path / "gpt2_tokenizer.bin").unlink()
    small = numgpt.load(write(tmp_path / "m.bin", llmcs.model(MODEL)))
    assert (small.tokenizer, small.config.eos_token_id, small.config.n_tokens) == (None, None, None)


def test_gpt2s_tokens_are_gpt2s_tokenizer(tmp_path):
    tokens = gpt2().pieces(range(50257))
    path = tmp_path / "gpt2_tokenizer.bin"
    for version in 1, 2:
        found = read_tokenizer(write(path, llmcs.tokenizer(tokens, 50256, version)))
        assert (len(found), repr(found)) == (50257, repr(gpt2()))
    assert found.encode("Hello world<|endoftext|>", allow_special=True) == [15496, 995, 50256]
    tokens[7] += b"x"
    assert "0 merges" in repr(read_tokenizer(write(path, llmcs.tokenizer(tokens, 50256))))


def test_other_tokens_decode_only(tmp_path, capsys):
    tokens = [b"\xc3", b"\xa9", b" caf", b"\0x", b"<end>"]
    write(tmp_path / "gpt2_tokenizer.bin", llmcs.tokenizer(tokens, 4))
    path = write(tmp_path / "m.bin", llmcs.model(MODEL))
    model = numgpt.load(path)
    assert model.tokenizer.decode([2, 0, 1, 3, 4]) == " caf\u00e9\0x<end>"
    assert model.tokenizer.pieces([0, 1]) == tokens[:2]
    assert (model.config.eos_token_id, model.config.n_tokens, model.tokenizer.special_tokens) == (4, 5, {"<end>": 4})
    assert load_tokenizer(path).pieces(range(5)) == tokens
    for encode in model.tokenizer.encode, model.tokenizer.encode_part:
        with pytest.raises(TokenError, match=r"gpt2_tokenizer\.bin decodes only, as it has no merges.*beside it, name"):
            encode("caf")
    assert cli.main(["generate", "caf", "-m", str(path)]) == 1
    assert "decodes only" in capsys.readouterr().err
    folder = convert(path, tmp_path / "folder")  # and nothing becomes of it that would encode in another way
    assert not list(folder.glob("vocab.json"))
    assert "no pieces of bytes to merge" in refusal(path, lambda x: convert(x, tmp_path / "m.gguf"))


def test_a_tokenizer_of_another_model_is_told(tmp_path):
    write(tmp_path / "gpt2_tokenizer.bin", llmcs.tokenizer(LETTERS[:12], 10))
    model = numgpt.load(write(tmp_path / "m.bin", llmcs.model(MODEL)))
    with pytest.raises(CheckpointError, match="the tokenizer has 12 tokens, but the embedding 11 rows"):
        model.tokenizer.decode([1])


def test_files_of_a_vocabulary_beside_it_come_first(tmp_path):
    write_tokenizer(tmp_path)
    write(tmp_path / "gpt2_tokenizer.bin", llmcs.tokenizer(LETTERS, 257))
    path = write(tmp_path / "m.bin", llmcs.model(hub_tensors(vocab_size=TOKENS, n_inner=24)))
    assert numgpt.load(path).tokenizer.encode("hi") == [256]
    assert numgpt.load(path).config.eos_token_id == 257


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (llmcs.header(20240328, 3, 2, 1) + b"\1a\1b", "llm.c's tokenizer of version 3, expected 1 or 2: write it anew"),
        (llmcs.header(20240328, 1, 2) + b"\1a\1b", "2 tokens, of which 50,256 is end-of-text, expected 1 to 131,072"),
        (llmcs.header(20240328, 2, 2, -1) + b"\1a\1b", "2 tokens, of which -1 is end-of-text"),
        (llmcs.header(20240328, 2, 1 << 30, 1) + b"\1a", "1,073,741,824 tokens, of which 1 is end-of-text"),
        (llmcs.header(20240328, 2, -1, 1) + b"\1a", "-1 tokens"),
        (llmcs.header(20240328, 2, 2, 1) + b"\1a\0b", "token 1 of 0 bytes, 0 of them there, expected 1 to 255"),
        (llmcs.header(20240328, 2, 2, 1) + b"\1a\5b", "token 1 of 5 bytes, 1 of them there, expected 1 to 255"),
        (llmcs.header(20240328, 2, 2, 1) + b"\1a", "token 1 of 0 bytes, 0 of them there"),
        (TOKENIZER + b"x", "1,047 bytes, expected 1,046, where the last token ends"),
        (TOKENIZER[:1000], "1,000 bytes, expected at least 1,024 of llm.c's tokenizer"),
        (b"text", "begins with b'text', expected llm.c's tokenizer: give another file"),
        (b"GGUF", "it looks like a GGUF file, expected llm.c's tokenizer"),
    ],
)
def test_a_damaged_tokenizer_is_told_to_those_who_ask_for_it(tmp_path, raw, said):
    path = write(tmp_path / "gpt2_tokenizer.bin", raw)
    assert said in fault(path, read_tokenizer)
    model = numgpt.load(write(tmp_path / "m.bin", llmcs.model(MODEL)))
    assert numgpt.forward([1], model.params, model.config).shape == (1, 11)
    assert said in fault(path, lambda _: model.tokenizer.decode([1]))


@pytest.mark.thorough
def test_a_tokenizer_is_read_in_bounded_memory(tmp_path):
    tokens = (b"\xff" + b"x" * 255) * (1 << 17)
    path = write(tmp_path / "gpt2_tokenizer.bin", llmcs.header(20240328, 2, 1 << 17, 1) + tokens)
    tracemalloc.start()
    read_tokenizer(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


# ---- models, refused


def changed(version=3, **values):
    """A sound file with other numbers in its header."""
    raw = bytearray(llmcs.model(MODEL, version=version))
    for name, value in values.items():
        at = 4 * int(name.removeprefix("at_"))
        raw[at : at + 4] = value.to_bytes(4, "little", signed=True)
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (changed(at_1=2), "llm.c's model of version 2, expected 1 or 3 or 5: write it anew with today's llm.c"),
        (changed(at_1=4), "llm.c's model of version 4, expected 1 or 3 or 5"),
        (changed(at_1=5), "8,392 bytes, expected 4,708 for 1,842 numbers in BF16"),
        (changed(at_1=1), "8,392 bytes, expected 5,584 for 1,140 numbers in F32"),
        (changed(version=5)[:-1], "4,707 bytes, expected 4,708"),
        (changed() + b"x", "8,393 bytes, expected 8,392"),
        (changed()[:500], "500 bytes, expected at least 1,024 of llm.c's model"),
        (changed(at_2=0), "n_ctx is 0, expected 1 or more"),
        (changed(at_3=-11), "n_vocab is -11, expected 1 or more"),
        (changed(at_4=2**31 - 1), "for 1,095,216,660,792 numbers in F32"),
        (changed(at_4=-1), "n_layer is -1, expected 1 or more"),
        (changed(at_5=0), "n_head is 0, expected 1 or more"),
        (changed(at_5=4), "n_embd is 6, expected a multiple of n_head, 4"),
        (changed(at_6=2**31 - 2), "for 110,680,464,586,138,713,882 numbers in F32"),
        (changed(at_7=10), "an embedding of 10 rows, expected 11 or more, one for each token"),
        (changed(at_7=0), "an embedding of 0 rows"),
        (llmcs.header(20240326, 1, 1, 1, 3000, 1, 1) + bytes(4 * (1 + 1 + 3000 * 25 + 2)), "3,000 layers, expected at"),
        (
            llmcs.header(20240327, 2),
            "llm.c's debug state, expected",
        ),
        (llmcs.header(20240328, 2), "llm.c's tokenizer, expected llm.c's model: give the model beside it"),
        (llmcs.tokens([1]), "llm.c's file of tokens, expected llm.c's model: give it to numgpt train"),
        (llmcs.header(20240522, 1), "it looks like llm.c's multiple-choice data, expected"),
        (llmcs.header(20240527, 1), "llm.c's state of a training, expected llm.c's model: give"),
        (llmcs.header(20240801, 7), "it looks like llm.c's file of Llama 3's tokens, expected"),
        (llmcs.header(20240803, 3), "it looks like llm.c's Llama 3, expected llm.c's model: numgpt runs GPT-2"),
    ],
)
def test_what_is_no_sound_model_is_refused(tmp_path, raw, said):
    assert said in fault(write(tmp_path / "m.bin", raw), numgpt.load)


def test_a_file_that_has_changed_since_is_refused(tmp_path):
    path = write(tmp_path / "m.bin", llmcs.model(MODEL))
    tensors = open_checkpoint(path).hub_tensors
    with open(path, "ab") as file:
        file.write(b"x")
    assert "h.1.mlp.c_fc.weight: the file has changed" in fault(path, lambda _: tensors["h.1.mlp.c_fc.weight"].read())


SAMPLES = [llmcs.model(MODEL, version=version) for version in (1, 3, 5)] + [TOKENIZER, llmcs.tokens([1, 2, 3])]
NUMBERS = [2**31 - 1, -(2**31), -1, 0, 1, 255, 2**16, 20240326, 20240328, 20240520]


PLACES = st.integers(0, 7).map(lambda i: 4 * i) | st.integers(1024, 1100)
DAMAGED = damaged(st.sampled_from(SAMPLES), PLACES, [n.to_bytes(4, "little", signed=True) for n in NUMBERS])


def read_model(path):
    opened = open_weights(look_at(path))
    match_params(opened.hub_tensors, opened.config, str(path))
    for tensor in opened.hub_tensors.values():
        assert tensor.read().shape == tensor.shape
    opened.tokenizer()


def check_damaged(tmp_path, raw):
    path = write(tmp_path / "m.bin", raw)
    for read in read_model, read_tokenizer, lambda path: text_or_ids(path.read_bytes(), path):
        try:
            read(path)
        except (CheckpointError, TokenError) as error:
            said = str(error)
            assert said.startswith(str(path))
            assert said.isprintable()
            assert len(said) < 1000


@given(raw=DAMAGED)
@fuzz(150)
def test_whatever_is_in_a_file_only_our_errors_come_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


@pytest.mark.thorough
@given(raw=DAMAGED)
@fuzz(2000)
def test_whatever_is_in_2000_files_only_our_errors_come_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


# ---- files of tokens


def test_a_file_is_text_or_ids(tmp_path):
    ids = text_or_ids(llmcs.tokens([0, 1, 65535]), tmp_path / "t.bin")
    assert (ids.tolist(), ids.dtype) == ([0, 1, 65535], np.uint16)
    assert text_or_ids("\ufeffa\r\nb".encode(), tmp_path / "a.txt") == "a\nb"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (llmcs.tokens([1, 2])[:-1], "2 ids, for which 3 bytes are there, expected 2 for each"),
        (llmcs.tokens([1, 2]) + b"xx", "2 ids, for which 6 bytes are there"),
        (llmcs.tokens([]), "0 ids, for which 0 bytes are there"),
        (llmcs.header(20240520, 1, -1), "-1 ids"),
        (llmcs.header(20240520, 2, 1) + b"xx", "llm.c's file of tokens of version 2, expected 1"),
        (llmcs.tokens([1])[:9], "9 bytes, expected at least 1,024"),
        (
            llmcs.header(20240801, 7, 1) + b"xxxx",
            "llm.c's file of Llama 3's tokens, expected llm.c's file",
        ),
        (llmcs.model(MODEL), "it looks like llm.c's model, expected llm.c's file of tokens: give it as a model, by -m"),
    ],
)
def test_what_is_no_sound_file_of_tokens_is_refused(tmp_path, raw, said):
    assert said in fault(tmp_path / "t.bin", lambda path: text_or_ids(raw, path))


# ---- written


def test_a_file_is_byte_for_byte_what_llm_c_writes(source, tmp_path):
    tensors = hub_tensors(vocab_size=TOKENS + 2, n_inner=24)
    for dtype, version in (None, 3), ("F32", 3), ("BF16", 5):
        path = convert(source, tmp_path / f"{dtype}.bin", to="llm.c", dtype=dtype)
        assert path.read_bytes() == llmcs.model(tensors, version=version)
    tokens = numgpt.load(source).tokenizer.pieces(range(TOKENS))
    assert tokens[256:] == [b"hi", b"<|endoftext|>"]
    assert (tmp_path / "gpt2_tokenizer.bin").read_bytes() == llmcs.tokenizer(tokens, 257)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_nothing_is_lost_there_and_back(source, tmp_path, dtype):
    file = convert(source, tmp_path / "there" / ".." / "m.bin", to="llm.c", dtype=dtype)
    assert_same(numgpt.load(file), numgpt.load(source))
    folder = convert(file, tmp_path / "back")
    assert open_checkpoint(folder).tensors["transformer.wte.weight"].dtype == dtype
    assert [numgpt.load(path).config.eos_token_id for path in (file, folder)] == [257, 257]
    shutil.copy(tmp_path / "gpt2_tokenizer.bin", folder)
    write_tokenizer(folder)
    again = convert(folder, tmp_path / "again.bin", to="llm.c", dtype=dtype)
    assert again.read_bytes() == file.read_bytes()


def test_gpt2s_tokenizer_comes_back_whole(tmp_path):
    tensors = hub_tensors(vocab_size=50257, n_inner=24)
    first = write(tmp_path / "first.bin", llmcs.model(tensors))
    (tmp_path / "new").mkdir()
    again = convert(first, tmp_path / "new" / "m.bin", to="llm.c")
    assert again.read_bytes() == first.read_bytes()
    assert len((again.parent / "gpt2_tokenizer.bin").read_bytes()) == 1024 + 371_084
    assert numgpt.load(again).tokenizer.encode("Hello world") == [15496, 995]


def test_what_no_file_of_llm_c_holds_becomes_float32(tmp_path):
    halves = {name: x.astype(np.float16) for name, x in MODEL.items()}
    doubles = {name: x.astype(np.float64) for name, x in MODEL.items()}
    for name, tensors in ("h", halves), ("d", doubles):
        path = convert(write_checkpoint(tmp_path / name, tensors, SETTINGS), tmp_path / f"{name}.bin", to="llm.c")
        assert path.read_bytes() == llmcs.model(MODEL)


def test_bfloat16_is_rounded_half_to_even():
    """1 + 2**-8 lies in the middle between 1 and 1 + 2**-7, 1 + 3 * 2**-8 between two odd neighbours' even one."""
    x = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 0.0, -0.0, 2**-149, np.inf, -np.inf, 1.5]
    expected = [1, 1 + 2**-6, 1 + 2**-7, -1, 0.0, -0.0, 0, np.inf, -np.inf, 1.5]
    assert_array_equal(round_to_bf16(np.array(x, np.float32)), np.array(expected, np.float32))
    quiet = round_to_bf16(np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)).view(np.uint32)
    assert quiet.tolist() == [0x7FC00000, 0xFFFF0000, 0x7FC00000]
    with pytest.raises(FloatingPointError):
        round_to_bf16(np.array([3.4e38], np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"activation_function": "gelu"},
            "activation_function is 'gelu', expected 'gelu_new': llm.c's files",
        ),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, expected 1e-05"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, expected True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, expected False"),
        ({"eos_token_id": None, "bos_token_id": 3}, "eos_token_id is None, expected a token, with which llm.c begins"),
        ({"eos_token_id": 259}, "eos_token_id is 259, expected a token"),
        ({"eos_token_id": [257, 3]}, "more_eos_ids is (3,), expected ()"),
        ({"bos_token_id": 3}, "bos_token_id is 3, expected None"),
    ],
)
def test_what_the_format_can_not_say_is_refused_with_the_reason(source, tmp_path, change, said):
    write_json(source / "config.json", {**WITH_TOKENS, **change})
    told = refusal(source, lambda path: convert(path, tmp_path / "m.bin", to="llm.c"))
    assert said in told
    assert told.endswith("write a folder of the Hub's layout, which holds all of it (--to hub)")
    assert not list(tmp_path.glob("*.bin*"))


def test_a_model_of_other_shapes_is_refused_with_the_reason(tmp_path):
    narrow = write_checkpoint(tmp_path / "narrow")
    untied = write_checkpoint(tmp_path / "u", MODEL | {"lm_head.weight": np.ones((11, 6), np.float32)}, SETTINGS)
    for path, said in (
        (narrow, "n_inner is 10, expected 24"),
        (untied, "tie_word_embeddings is False, expected True"),
        (write_checkpoint(tmp_path / "e", MODEL, {**SETTINGS, "eos_token_id": 3}), "eos_token_id is 3, expected None"),
    ):
        assert said in refusal(path, lambda path: convert(path, tmp_path / "m.bin", to="llm.c"))


def test_the_other_names_of_what_is_fixed_are_taken(tmp_path):
    settings = {**SETTINGS, "n_inner": 24, "activation_function": "gelu_pytorch_tanh"}
    path = convert(write_checkpoint(tmp_path / "m", MODEL, settings), tmp_path / "m.bin", to="llm.c")
    assert numgpt.load(path).config.activation_function == "gelu_new"


@pytest.mark.parametrize("length", [255, 256])
def test_a_token_has_at_most_255_bytes(source, tmp_path, length):
    write_json(source / "added_tokens.json", {"x" * length: TOKENS})
    if length == 255:
        convert(source, tmp_path / "m.bin", to="llm.c")
        assert numgpt.load(tmp_path / "m.bin").tokenizer.decode([TOKENS]) == "x" * 255
    else:
        said = refusal(source, lambda path: convert(path, tmp_path / "m.bin", to="llm.c"))
        assert "token 258 of its tokenizer has 256 bytes, expected 1 to 255" in said


def test_a_token_without_a_row_is_left_out_and_too_many_are_refused(source, tmp_path, monkeypatch):
    write_json(source / "added_tokens.json", {"<pad>": TOKENS + 9})
    convert(source, tmp_path / "m.bin", to="llm.c")
    assert len(read_tokenizer(tmp_path / "gpt2_tokenizer.bin")) == TOKENS + 2
    monkeypatch.setattr(llmc_export, "MAX_TOKENS", TOKENS)
    said = refusal(source, lambda path: convert(path, tmp_path / "n.bin", to="llm.c"))
    assert "260 tokens, expected at most 258" in said


def test_a_number_that_is_too_large_leaves_nothing(source, tmp_path):
    tensors = hub_tensors(vocab_size=TOKENS + 2, n_inner=24)
    tensors["h.1.mlp.c_proj.bias"][0] = 3.4e38
    write_checkpoint(source, tensors, WITH_TOKENS)
    said = refusal(source, lambda path: convert(path, tmp_path / "m.bin", to="llm.c", dtype="BF16"))
    assert "h.1.mlp.c_proj.bias has a number that is too large for BF16, expected those that it can hold" in said
    assert not list(tmp_path.glob("*.bin*"))


def test_a_tokenizer_that_is_damaged_or_of_another_model_stops_it(source, plain, tmp_path):
    (source / "vocab.json").write_text("{")
    assert "vocab.json: not JSON" in refusal(source, lambda path: convert(path, tmp_path / "m.bin", to="llm.c"))
    write_tokenizer(plain)
    said = refusal(plain, lambda path: convert(path, tmp_path / "m.bin", to="llm.c"))
    assert "the tokenizer has 257 tokens, but the embedding 11 rows" in said


def test_what_is_there_stays(source, plain, tmp_path):
    other = write(tmp_path / "gpt2_tokenizer.bin", TOKENIZER)
    for path in source, plain:  # which has none, and would get this one
        said = refusal(path, lambda path: convert(path, tmp_path / "m.bin", to="llm.c"))
        assert said == f"{other}: is there already, expected none, or that of this model: write into another folder"
    assert other.read_bytes() == TOKENIZER
    said = refusal(source, lambda path: convert(path, other, to="llm.c"))
    assert said == f"{other}: is there already, expected a new file: choose another name"
    other.unlink()
    assert "is the name of the tokenizer's file" in refusal(source, lambda path: convert(path, other, to="llm.c"))
    convert(source, tmp_path / "m.bin", to="llm.c")
    written = other.stat().st_mtime_ns
    convert(source, tmp_path / "n.bin", to="llm.c", dtype="BF16")  # its own tokenizer may be there
    assert other.stat().st_mtime_ns == written


def test_both_files_are_written_or_none(source, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    said = refusal(source, lambda path: convert(path, tmp_path / "m.bin", to="llm.c"))
    assert "can't be written: No space left on device" in said
    assert not list(tmp_path.glob("*.bin*"))


def test_a_dtype_of_another_format_is_refused(source, tmp_path):
    with pytest.raises(OptionError, match=r"dtype is 'Q8_0', expected one of F32, BF16 for a file of llm\.c"):
        convert(source, tmp_path / "m.bin", to="llm.c", dtype="Q8_0")


def test_the_command_line_writes_a_file_and_reads_it(tmp_path, capsys):
    path = tmp_path / "s.bin"
    assert cli.main(["convert", "storyteller", str(path), "--to", "llm.c"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    story, same = numgpt.load(locate("storyteller")), numgpt.load(path)
    assert_same(same, story)
    assert same.tokenizer.pieces(range(4096)) == story.tokenizer.pieces(range(4096))
    assert cli.main(["inspect", "-m", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tensors"]
    assert (rows[0]["name"], rows[0]["dtype"], rows[0]["shape"]) == ("wte.weight", "F32", [4096, 256])

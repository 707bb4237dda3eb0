"""ggml's first format, read: hand-made files in, arrays and sizes out, and a CheckpointError for all else."""

import re
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from support import ggufs
from support.checkpoints import CONFIG, hub_tensors, write_json, write_tokenizer
from support.ggmls import SIZES, ggml, head, renamed, small, tensor, write
from support.ggufs import Tensor, f16, f32
from support.readers import damaged, fault, fuzz, read_or_refused, refusal
from support.readers import write as write_bytes

import numgpt
from numgpt.checkpoint import ggml as module
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.formats import look_at
from numgpt.checkpoint.ggml import read_ggml
from numgpt.checkpoint.memory import read_params
from numgpt.checkpoint.names import hub_name, match_params
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.cli import main as cli
from numgpt.config import Config
from numgpt.params import leaves

MODEL = Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, n_inner=10, eos_token_id=None)
SMALL = small(hub_tensors())


def assert_holds(path, expected):
    params = dict(leaves(numgpt.load(path).params))
    assert len(params) == len(expected)
    for leaf, x in params.items():
        assert_array_equal(x, expected[hub_name(leaf)], err_msg=leaf)
        assert x.dtype == np.float32


# ---- weights


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("store", "ftype"), [(f32, 0), (f16, 1), (f16, 2001)])
def test_a_file_is_the_model_in_either_layout(tmp_path, store, ftype, old):
    path = write(tmp_path / "m.bin", small(hub_tensors(), store, old), ftype=ftype)
    assert_holds(path, hub_tensors())
    assert numgpt.load(tmp_path).config == MODEL
    assert numgpt.load(path).tokenizer is None
    opened = open_checkpoint(path)
    assert opened.kind == "ggml"
    assert opened.tensors["model/h0/attn/c_attn/w"].shape == ((6, 18) if old else (18, 6))
    assert opened.tensors["model/h0/mlp/c_proj/w"].shape == (6, 10)
    assert opened.hub_tensors["h.0.attn.c_attn.weight"].shape == (6, 18)
    assert opened.tensors["model/wte"].dtype == store.__name__.upper()
    assert opened.tensors["model/wpe"].dtype == "F32"


@pytest.mark.parametrize("old", [False, True])
def test_a_square_matrix_is_turned_as_c_attn_is(tmp_path, old):
    """Its shape tells nothing: only its values do, also where all matrices are square."""
    square = hub_tensors(n_inner=6)
    path = write(tmp_path / "m.bin", small(square, old=old))
    params = numgpt.load(path).params
    for i in range(2):
        for block, matrix in ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj"):
            expected = square[f"h.{i}.{block}.{matrix}.weight"]
            assert_array_equal(params["h"][i][block][matrix]["w"], expected)
            assert not np.array_equal(expected, expected.T)


def test_square_embeddings_are_not_turned(tmp_path):
    square = hub_tensors(vocab_size=6, n_positions=6)
    assert_holds(write(tmp_path / "m.bin", small(square), sizes=(6, 6, 6, 2, 2)), square)


@pytest.mark.parametrize("vocab_size", [11, 6])
def test_a_head_of_its_own_is_kept_and_not_turned(tmp_path, vocab_size):
    tensors = hub_tensors(vocab_size=vocab_size)
    own = tensors["wte.weight"] + np.float32(1 / 1024)
    sizes = (vocab_size, 7, 6, 2, 2)
    model = numgpt.load(write(tmp_path / "m.bin", small({**tensors, "lm_head.weight": own}), sizes=sizes))
    assert not model.config.tie_word_embeddings
    assert_array_equal(model.params["lm_head"], own)
    copy = {**tensors, "lm_head.weight": tensors["wte.weight"]}
    assert_holds(write(tmp_path / "n.bin", small(copy), sizes=sizes), tensors)


# One row of each type, by hand, and the numbers that it stands for: d = 0.5, m = 1, and q counts up from 0.
HALF, ONE = np.array([0.5], "<f2").tobytes(), np.array([1], "<f2").tobytes()
NIBBLES = bytes(range(16))  # low: 0 to 15, high: 0
ROWS = {
    (2002, 2, "Q4_0"): (HALF + NIBBLES, [0.5 * (q - 8) for q in [*range(16), *[0] * 16]]),
    (2003, 3, "Q4_1"): (HALF + ONE + NIBBLES, [0.5 * q + 1 for q in [*range(16), *[0] * 16]]),
    (2007, 8, "Q8_0"): (HALF + bytes(range(32)), [0.5 * q for q in range(32)]),
    (2008, 6, "Q5_0"): (HALF + bytes([3, 0, 0, 128]) + NIBBLES, [0.5 * (q - 16) for q in [16, 17, *range(2, 16)]]),
    (2009, 7, "Q5_1"): (HALF + ONE + bytes(4) + NIBBLES, [0.5 * q + 1 for q in [*range(16), *[0] * 16]]),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("ftype", "kind", "name"), ROWS)
def test_blocks_become_float32_and_keep_their_type_for_display(tmp_path, capsys, ftype, kind, name, old):
    raw, numbers = ROWS[ftype, kind, name]
    tensors = small(hub_tensors(vocab_size=32, n_positions=2, n_embd=32, n_layer=1, n_inner=64), old=old)
    made = {"model/wte": (32, 32), "model/h0/attn/c_proj/w": (32, 32), "model/h0/mlp/c_proj/w": (32, 64)}
    for each, shape in made.items():
        tensors[each] = Tensor(shape, kind, raw * (shape[0] * shape[1] // 32))
    path = write(tmp_path / "m.bin", tensors, sizes=(32, 2, 32, 2, 1), ftype=ftype)
    opened = open_checkpoint(path)
    assert opened.tensors["model/wte"].dtype == name
    assert opened.hub_tensors["wte.weight"].dtype == "F32"
    params = numgpt.load(path).params
    assert_array_equal(params["wte"][0][: len(numbers)], numbers)
    assert_array_equal(params["wte"][31], params["wte"][0])
    square = params["h"][0]["attn"]["c_proj"]["w"]
    assert_array_equal(square[5 if old else slice(len(numbers)), slice(len(numbers)) if old else 5], numbers)
    assert_array_equal(params["h"][0]["mlp"]["c_proj"]["w"][32 : 32 + len(numbers), 7], numbers)
    assert cli.main(["inspect", "-m", str(path)]) == 0
    assert re.search(rf"  model/wte +{name} +\S+ k?B  32 x 32\n", capsys.readouterr().out)


def test_blocks_of_before_may_2023_are_refused_by_name(tmp_path):
    blocks = Tensor((32, 32), 2, bytes(18 * 32))
    for ftype, said in (
        (2010, "ftype is 2010, expected 0, 1, 2002, 2003, 2007, 2008 or 2009"),
        (2, "Q4_0 in blocks of version 0 (ftype 2), expected 2: they are of before May 2023; use a GGUF file"),
        (1003, "Q4_1 in blocks of version 1 (ftype 1003), expected 2: they are of before May 2023; use a GGUF file"),
        (0, "model/wte: Q4_0 in blocks of version 0, expected 2: they are of before May 2023; use a GGUF file"),
    ):
        assert fault(write(tmp_path / "m.bin", {"model/wte": blocks}, ftype=ftype), numgpt.load).startswith(said)


def test_no_number_is_read_before_it_is_asked_for(tmp_path):
    path = write(tmp_path / "m.bin", SMALL)
    opened = open_checkpoint(path)
    with open(path, "ab") as file:
        file.write(b"x")
    for tensors in opened.tensors, opened.hub_tensors:
        for each in tensors.values():
            assert "the file has changed" in refusal(path, lambda _, each=each: each.read())


def test_memory_while_loading_is_the_parameters_and_little_more(tmp_path):
    sizes = {"vocab_size": 1000, "n_positions": 8, "n_embd": 256, "n_layer": 4, "n_inner": 1024}
    path = write(tmp_path / "m.bin", small(hub_tensors(**sizes), f16), sizes=(1000, 8, 256, 2, 4), ftype=1)
    opened = open_checkpoint(path)
    found, config = match_params(opened.hub_tensors, opened.config, "x")
    tracemalloc.start()
    params = read_params(found, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest = max(x.nbytes for _, x in leaves(params))
    assert peak < sum(x.nbytes for _, x in leaves(params)) + 1.5 * largest


# ---- what lies beside it


def test_the_files_beside_it_say_what_it_does_not(tmp_path):
    """Its own tokens are in no order that counts, and there are no merges: vocab.json and merges.txt count."""
    sizes = {"n_head": 3, "n_inner": None, "activation_function": "relu", "layer_norm_epsilon": 0.5}
    write_json(
        tmp_path / "config.json", {**CONFIG, "vocab_size": 258, **sizes, "eos_token_id": 257, "resid_pdrop": 0.3}
    )
    write_tokenizer(tmp_path)
    write(tmp_path / "ggml-model.bin", small(hub_tensors(vocab_size=258), f16), sizes=(258, 7, 6, 2, 2), ftype=1)
    model = numgpt.load(tmp_path)
    assert model.config == MODEL._replace(n_vocab=258, n_tokens=258, eos_token_id=257)
    assert model.tokenizer.encode("hi") == [256]
    assert numgpt.load(tmp_path, activation_function="gelu", layer_norm_epsilon=0.1).config[6:8] == (0.1, "gelu")
    copy = convert(tmp_path, tmp_path / "copy")
    assert numgpt.load(copy).config == model.config
    assert {path.name for path in copy.iterdir()} == {"config.json", "model.safetensors", "vocab.json", "merges.txt"}


def test_the_end_of_text_is_gpt2s_where_nothing_is_beside_it(tmp_path):
    tensors = small(hub_tensors(vocab_size=50257, n_layer=1))
    assert numgpt.load(write(tmp_path / "m.bin", tensors, sizes=(50257, 7, 6, 2, 1))).config.eos_token_id == 50256


# ---- what does not fit


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((10, 7, 6, 2, 2), "n_vocab is 10, expected 11, as the tensors say: it is of another model than GPT-2"),
        ((11, 8, 6, 2, 2), "n_ctx is 8, expected 7, as the tensors say"),
        ((11, 7, 8, 2, 2), "n_embd is 8, expected 6, as the tensors say"),
        ((11, 7, 6, 2, 3), "n_layer is 3, expected 2, as the tensors say"),
        ((11, 7, 6, 4, 2), "n_embd is 6, expected a multiple of n_head, 4"),
        ((11, 7, 6, 0, 2), "n_head is 0, expected 1 or more"),
        ((11, 7, 6, -2, 2), "n_head is -2, expected 1 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, sizes, said):
    assert said in refusal(write(tmp_path / "m.bin", SMALL, sizes=sizes), numgpt.load)


def test_what_is_missing_or_left_over_is_told(tmp_path):
    tensors = {**SMALL, "gpt_neox.embed_in.weight": f32(np.zeros((2, 3)))}
    del tensors["model/h1/ln_1/g"]
    said = refusal(write(tmp_path / "m.bin", tensors), numgpt.load)
    assert said.endswith("missing: h.1.ln_1.g; left over: gpt_neox.embed_in.weight")
    twice = SMALL | {"wte.weight": SMALL["model/wte"]}
    assert "a tensor is there under the Hub's name too" in refusal(write(tmp_path / "m.bin", twice), numgpt.load)
    assert "none of its 0 tensors is model/wte, expected it" in refusal(write(tmp_path / "m.bin", {}), numgpt.load)


A = tensor("a", f32(np.zeros(8)))


def info(axes=(8,), length=1, kind=0, name=b"a", n_axes=None):
    n_axes = len(axes) if n_axes is None else n_axes
    return struct.pack(f"<3i{len(axes)}i", n_axes, length, kind, *axes) + name


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"lmgg", "4 bytes, expected at least the 32 of its head"),
        (b"GGUF" + bytes(40), "it looks like a GGUF file, expected a file of ggml"),
        (b"ggml" + bytes(40), "begins with b'ggml', expected b'lmgg': it is no file of ggml's first format"),
        (head(again=3), "n_vocab is 11 and then 3, expected the same twice: it is of another model than GPT-2"),
        (head((-1, 7, 6, 2, 2), again=0), "n_vocab is -1, expected 1 or more: it is of another model"),
        (head(ftype=-1), "ftype is -1, expected 0 or more"),
        (head(ftype=4), "ftype is 4, expected 0, 1, 2002, 2003, 2007, 2008 or 2009: use a GGUF file"),
        (head(ftype=3002), "ftype is 3002, expected 0, 1, 2002"),
        (head((2**31 - 1, 7, 6, 2, 2), again=2**31 - 1, tokens=[]), "2,147,483,647 tokens, expected at most 524,288"),
        (head((99, 7, 6, 2, 2), tokens=[b"x"]), "99 tokens, expected at most 524,288, and what fits into the 5 bytes"),
        (head(tokens=[b""] * 10)[:-4] + bytes([255] * 8), "token 9 of 4,294,967,295 bytes ends at byte 4,294,967,367"),
        (head() + info()[:11], "ends within a tensor's head at byte 110, expected 1 bytes more"),
        (head() + info()[:15], "ends within a tensor's head at byte 122, expected 1 bytes more"),
        (head() + info(n_axes=5), "5 axes and a name of 1 bytes at byte 110, expected 1 to 4, and at most 200"),
        (head() + info(n_axes=-1), "-1 axes and a name of 1 bytes"),
        (head() + info(length=2**31 - 1), "1 axes and a name of 2147483647 bytes"),
        (head() + info(length=-1), "1 axes and a name of -1 bytes"),
        (head() + info(name=b"\xff"), "the name b'\\xff' at byte 110, expected UTF-8"),
        (head() + info((8, -1)), "a: F32 of shape (-1, 8), expected axes of 1 or more"),
        (head() + info((0,)), "a: F32 of shape (0,), expected axes of 1 or more"),
        (head() + info((2**31 - 1,) * 4), "a: F32 of shape (2147483647, 2147483647, 2147483647, 2147483647) has 85,07"),
        (head() + info(kind=4), "a: type unknown (4), expected one of F32, F16, Q4_0"),
        (head() + info(kind=9), "a: type Q8_1 (9), expected one of F32, F16, Q4_0"),
        (head(ftype=2007) + info((33,), kind=8), "a: Q8_0 of shape (33,), expected rows of a multiple of 32 numbers"),
        (head() + A + A, "a: comes twice, expected once"),
        (head() + A[:-1], "a: F32 of shape (8,) has 32 bytes, expected at most the 31 left"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, raw, said):
    assert said in refusal(write_bytes(tmp_path / "m.bin", raw), read_ggml)


def test_a_file_of_another_model_is_told(tmp_path):
    """GPT-J has one more number, of its rotations, before ftype."""
    raw = b"lmgg" + struct.pack("<8i", 11, 7, 6, 2, 2, 64, 1, 11) + bytes(99)
    said = fault(write_bytes(tmp_path / "m.bin", raw), numgpt.load)
    assert said.startswith("n_vocab is 11 and then 1, expected the same twice: it is of another model than GPT-2")


@pytest.mark.thorough
def test_tokens_and_tensors_without_end_are_refused_in_bounded_time(tmp_path):
    count = 1 << 19
    words = write_bytes(tmp_path / "words.bin", head((count, 7, 6, 2, 2), tokens=[b""] * count))
    many = [struct.pack("<4i", 1, 5, 0, 1) + b"%05d" % i + bytes(4) for i in range(9_000)]
    many = write_bytes(tmp_path / "many.bin", head() + b"".join(many))
    start = time.process_time()
    assert read_ggml(words)[1] == {}
    assert fault(many, read_ggml).startswith("more than 8,192 tensors, expected those of a GPT-2")
    assert time.process_time() - start < 2  # less than 1 s where nothing else runs


SAMPLE = ggml(
    small(hub_tensors(3, 2, 32, 1, 3))
    | {"model/wte": Tensor((3, 32), 8, bytes(range(102))), "model/lm_head": f16(np.ones((3, 32)))},
    (3, 2, 32, 1, 1),
    2007,
)
HUGE = [2**31, 2**32 - 1, 2**31 - 1, 2**30, 2**16, 0, 1, 255]
STARTS = [at for name in small(hub_tensors(3, 2, 32, 1, 3)) for at in [SAMPLE.index(name.encode()) - 16]]


PLACES = st.integers(0, 60) | st.sampled_from(STARTS).flatmap(lambda at: st.integers(at - 4, at + 20))
DAMAGED = damaged(st.just(SAMPLE), PLACES, [n.to_bytes(4, "little") for n in HUGE])


def tensors_of(path):
    return module.open_weights(look_at(path)).hub_tensors


def check_damaged(tmp_path, raw):
    read_or_refused(write_bytes(tmp_path / "m.bin", raw), tensors_of)


@given(raw=DAMAGED)
@fuzz()
def test_whatever_is_in_a_file_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


@pytest.mark.thorough
@given(raw=DAMAGED)
@fuzz(2000)
def test_whatever_is_in_2000_files_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


def test_the_sample_is_sound(tmp_path):
    assert len(tensors_of(write_bytes(tmp_path / "m.bin", SAMPLE))) == 17
    assert tuple(CONFIG[key] for key in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")) == SIZES
    assert renamed({}) == {}
    assert ggufs.KEYS["gpt2.block_count"] == SIZES[4]

"""GGUF, read: hand-made files in, arrays, sizes and ids out, and a CheckpointError for all else."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from support.checkpoints import SIZES, hub_tensors, write_tokenizer
from support.ggufs import KEYS, Tensor, Value, bf16, f16, f32, gguf, renamed, string, tokenizer, value, write
from support.readers import damaged, fault, fuzz, read_or_refused, refusal
from support.readers import write as write_bytes

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.formats import look_at
from numgpt.checkpoint.gguf import open_weights as open_gguf
from numgpt.checkpoint.gguf import read_gguf
from numgpt.checkpoint.memory import read_params
from numgpt.checkpoint.names import hub_name, match_params
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.cli import main as cli
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.hub.loading import load_tokenizer
from numgpt.params import leaves

CONFIG = Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, n_inner=10, eos_token_id=None)
SMALL = {name: f32(x) for name, x in renamed(hub_tensors()).items()}


def tensors_of(path):
    return open_gguf(look_at(path)).tensors


def without(keys, *names):
    return {key: x for key, x in keys.items() if key not in names}


def assert_holds(path, expected):
    params = dict(leaves(numgpt.load(path).params))
    assert len(params) == len(expected)
    for leaf, x in params.items():
        assert_array_equal(x, expected[hub_name(leaf)], err_msg=leaf)
        assert x.dtype == np.float32


# ---- weights


@pytest.mark.parametrize("store", [f32, f16, bf16])
def test_a_file_is_the_model(tmp_path, store):
    tensors = {name: store(x) for name, x in renamed(hub_tensors()).items()}
    path = write(tmp_path / "m.gguf", KEYS, tensors)
    assert_holds(path, hub_tensors())
    assert numgpt.load(path).config == CONFIG
    assert numgpt.load(path).tokenizer is None
    opened = open_checkpoint(path)
    assert opened.kind == "gguf"
    assert opened.tensors["blk.0.attn_qkv.weight"].shape == (18, 6)
    assert opened.hub_tensors["h.0.attn.c_attn.weight"].shape == (6, 18)
    assert {t.dtype for t in opened.tensors.values()} == {store.__name__.upper()}
    for name, x in renamed(hub_tensors()).items():
        assert_array_equal(opened.tensors[name].read(), x)


def test_a_square_matrix_is_turned_once(tmp_path):
    """Its shape tells nothing: only its values do, also where all matrices are square."""
    square = hub_tensors(n_inner=6)
    keys = {**KEYS, "gpt2.feed_forward_length": 6}
    path = write(tmp_path / "m.gguf", keys, {name: f32(x) for name, x in renamed(square).items()})
    params = numgpt.load(path).params
    for i in range(2):
        for block, matrix in ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj"):
            expected = square[f"h.{i}.{block}.{matrix}.weight"]
            assert_array_equal(params["h"][i][block][matrix]["w"], expected)
            assert not np.array_equal(expected, expected.T)


def test_square_embeddings_are_not_turned(tmp_path):
    square = hub_tensors(vocab_size=6, n_positions=6)
    keys = {**KEYS, "gpt2.context_length": 6}
    assert_holds(write(tmp_path / "m.gguf", keys, {n: f32(x) for n, x in renamed(square).items()}), square)


def test_matrices_of_more_than_a_strip_are_whole(tmp_path):
    """They are read some rows at a time: here 3 times, and the last time less."""
    large = hub_tensors(vocab_size=350, n_embd=400, n_inner=30, n_layer=1)
    keys = {**KEYS, "gpt2.embedding_length": 400, "gpt2.feed_forward_length": 30, "gpt2.block_count": 1}
    assert_holds(write(tmp_path / "m.gguf", keys, {n: f32(x) for n, x in renamed(large).items()}), large)


def test_blocks_become_float32_and_keep_their_type_for_display(tmp_path, capsys):
    """128 weights of 0.5 times 1 to 32, in rows of 32."""
    row = np.array([0.5], "<f2").tobytes() + bytes(range(1, 33))
    tensors = {"token_embd.weight": Tensor((4, 32), 8, 4 * row), "blk.0.ffn_up.weight": Tensor((2, 32), 8, 2 * row)}
    opened = open_checkpoint(write(tmp_path / "m.gguf", KEYS, tensors))
    assert opened.tensors["token_embd.weight"].dtype == "Q8_0"
    up = opened.hub_tensors["h.0.mlp.c_fc.weight"]
    assert (up.dtype, up.shape) == ("F32", (32, 2))
    assert_array_equal(up.read(), np.outer(np.arange(1, 33) / 2, [1, 1]))
    assert cli.main(["inspect", "-m", str(tmp_path / "m.gguf")]) == 1
    said = capsys.readouterr()
    assert f"  {'token_embd.weight':<40} Q8_0      136 B  4 x 32" in said.out
    assert "shape (32, 2), expected (6, 10)" in said.err


def test_memory_while_loading_is_the_parameters_and_one_tensor(tmp_path):
    sizes = {"vocab_size": 1000, "n_positions": 8, "n_embd": 256, "n_layer": 4, "n_inner": 1024}
    tensors = hub_tensors(**sizes)
    keys = {**KEYS, "gpt2.context_length": 8, "gpt2.embedding_length": 256, "gpt2.feed_forward_length": 1024}
    path = write(tmp_path / "m.gguf", keys | {"gpt2.block_count": 4}, {n: f16(x) for n, x in renamed(tensors).items()})
    opened = open_checkpoint(path)
    given_, config = match_params(opened.hub_tensors, opened.config, "x")
    tracemalloc.start()
    params = read_params(given_, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest = max(x.nbytes for _, x in leaves(params))
    assert peak < sum(x.nbytes for _, x in leaves(params)) + 1.5 * largest  # two threads unpack some rows each


# ---- the head


def test_a_copy_of_the_embedding_is_no_head(tmp_path):
    tensors = SMALL | {"output.weight": SMALL["token_embd.weight"]}
    model = numgpt.load(write(tmp_path / "m.gguf", KEYS, tensors))
    assert model.config.tie_word_embeddings
    assert "lm_head" not in model.params


def test_a_head_that_was_quantised_otherwise_is_kept(tmp_path):
    """llama-quantize gives output.weight more bits than token_embd: what they stand for decides, not their names."""
    wte = hub_tensors()["wte.weight"]
    head = wte + np.float32(1 / 1024)
    model = numgpt.load(write(tmp_path / "m.gguf", KEYS, SMALL | {"output.weight": f32(head)}))
    assert not model.config.tie_word_embeddings
    assert_array_equal(model.params["lm_head"], head)
    assert_array_equal(model.params["wte"], wte)


# ---- keys


@pytest.mark.parametrize("kind", ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"])
def test_any_kind_of_integer_counts(tmp_path, kind):
    keys = {key: Value(kind, x) if type(x) is int else x for key, x in KEYS.items()}
    assert numgpt.load(write(tmp_path / "m.gguf", keys, SMALL)).config == CONFIG


def test_version_2_and_another_alignment_are_read(tmp_path):
    keys = {**KEYS, "general.alignment": 128, "general.name": "x", "some.numbers": [1, 2], "some.flag": True}
    assert_holds(write(tmp_path / "m.gguf", keys, SMALL, version=2, alignment=128), hub_tensors())
    assert_holds(write(tmp_path / "n.gguf", {**keys, "general.alignment": 1}, SMALL, alignment=1), hub_tensors())


def test_an_epsilon_is_the_number_that_was_meant(tmp_path):
    for eps in 1e-5, 1e-6, 0.1:
        keys = {**KEYS, "gpt2.attention.layer_norm_epsilon": eps}
        assert open_checkpoint(write(tmp_path / "m.gguf", keys, SMALL)).config.layer_norm_epsilon == eps


def test_without_a_width_of_the_mlp_it_is_four_times_as_wide(tmp_path):
    tensors = {name: f32(x) for name, x in renamed(hub_tensors(n_inner=24)).items()}
    keys = without(KEYS, "gpt2.feed_forward_length")
    assert numgpt.load(write(tmp_path / "m.gguf", keys, tensors)).config.n_inner is None
    keys["gpt2.feed_forward_length"] = 24
    assert numgpt.load(write(tmp_path / "m.gguf", keys, tensors)).config.n_inner is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"general.architecture": "llama"}, "general.architecture is 'llama', expected 'gpt2': numgpt runs GPT-2"),
        ({"general.architecture": None}, "general.architecture is missing, expected 'gpt2'"),
        ({"general.architecture": [1, 2]}, "general.architecture is an array, expected 'gpt2'"),
        ({"general.type": "adapter"}, "general.type is 'adapter', expected 'model': it is no model by itself"),
        ({"general.type": [7]}, "general.type is an array, expected 'model'"),
        ({"gpt2.block_count": None}, "gpt2.block_count is missing, expected an integer"),
        ({"gpt2.block_count": "2"}, "gpt2.block_count is '2', expected an integer"),
        ({"gpt2.attention.head_count": [2, 2]}, "gpt2.attention.head_count is an array, expected an integer"),
        ({"gpt2.attention.head_count": 5}, "n_embd is 6, expected a multiple of n_head, 5"),
        ({"gpt2.attention.head_count_kv": 1}, "gpt2.attention.head_count_kv is 1, expected 2"),
        ({"gpt2.attention.layer_norm_epsilon": None}, "gpt2.attention.layer_norm_epsilon is missing"),
        ({"gpt2.attention.layer_norm_epsilon": 1e9}, "layer_norm_epsilon is 1000000000.0, expected a number from 0"),
        ({"gpt2.context_length": 8}, "wpe: shape (7, 6), expected (8, 6)"),
        ({"gpt2.block_count": 1 << 31}, "n_layer is 2147483648, but the file has 28 tensors in all"),
        ({"general.alignment": 3}, "general.alignment is 3, expected a power of two"),
        ({"general.alignment": 0}, "general.alignment is 0, expected a power of two"),
        ({"general.alignment": [32]}, "general.alignment is an array, expected a power of two"),
        ({"split.count": 2, "split.no": 0}, "part 0 of 2, counted from 0, expected its name to say so"),
    ],
)
def test_keys_that_are_no_gpt2s_are_refused_by_name(tmp_path, changes, said):
    keys = {key: x for key, x in {**KEYS, **changes}.items() if x is not None}
    assert said in refusal(write(tmp_path / "m.gguf", keys, SMALL), numgpt.load)


# ---- the tokenizer


def vocabulary(tmp_path, changes=None, **keys):
    """The tokenizer of a file with a vocabulary alone."""
    merged = {**tokenizer(261, {"<mask>": 4, "<pad>": 3}), **(changes or {}), **keys}
    merged = {"general.architecture": "gpt2"} | {key: x for key, x in merged.items() if x is not None}
    return load_tokenizer(write(tmp_path / "v.gguf", merged, {}))


def test_a_vocabulary_alone_is_a_tokenizer(tmp_path, capsys):
    made = vocabulary(tmp_path)
    assert made.encode("hi h\u00e9") == [256, 220, 71, 127, 102]
    assert made.encode("hi<|endoftext|>", allow_special=True) == [256, 257]
    assert made.special_tokens == {"<|endoftext|>": 257, "<pad>": 259}
    assert made.encode("a<mask>hi") == [64, 258, 256]
    assert len(made) == 260  # 260 is padding
    assert cli.main(["tokenize", "-m", str(tmp_path / "v.gguf"), "hi!"]) == 0
    assert capsys.readouterr().out == "    256  'hi'\n      0  '!'\n"
    said = fault(tmp_path / "v.gguf", numgpt.load)
    assert said.startswith("n_layer is 12, but the file has 0 tensors in all")
    assert said.endswith("it may be the file of a vocabulary alone")


def test_the_files_of_another_tokenizer_beside_it_do_not_count(tmp_path):
    write_tokenizer(tmp_path, added=("<x>",))
    keys = {**KEYS, **tokenizer(300, {"<own>": 3})}
    tensors = {name: f32(x) for name, x in renamed(hub_tensors(vocab_size=300)).items()}
    path = write(tmp_path / "m.gguf", keys, tensors)
    for found in numgpt.load(path).tokenizer, load_tokenizer(path), load_tokenizer(tmp_path):
        assert found.special_tokens == {"<|endoftext|>": 257, "<own>": 258}
    assert numgpt.load(path).config.n_tokens == 259
    (tmp_path / "config.json").write_text("no JSON")
    assert numgpt.load(tmp_path).config.eos_token_id == 257


def test_the_end_of_text_is_never_a_comma_for_want_of_a_key(tmp_path):
    """llama.cpp takes 11 where the key is missing."""
    keys = {**KEYS, **tokenizer(258)}
    tensors = {name: f32(x) for name, x in renamed(hub_tensors(vocab_size=258)).items()}
    keys = without(keys, "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id")
    assert numgpt.load(write(tmp_path / "m.gguf", keys, tensors)).config.eos_token_id == 257
    keys["tokenizer.ggml.eos_token_id"] = 3
    assert numgpt.load(write(tmp_path / "m.gguf", keys, tensors)).config.eos_token_id == 3
    assert numgpt.load(write(tmp_path / "n.gguf", KEYS, SMALL)).config.eos_token_id is None


def test_without_types_the_end_of_text_is_special(tmp_path):
    made = vocabulary(tmp_path, {"tokenizer.ggml.token_type": None})
    assert made.special_tokens == {"<|endoftext|>": 257}


@pytest.mark.parametrize("splitter", [None, "default", "gpt-2", "phi-2"])
def test_numbers_are_one_word_as_gpt2_has_it(tmp_path, splitter):
    """Without the key, llama.cpp would cut digits in threes: another merge of digits could not be found then."""
    tokens = tokenizer(260)
    tokens["tokenizer.ggml.merges"] = ["1 2", "12 12"]
    tokens["tokenizer.ggml.tokens"][258:] = ["12", "1212"]
    tokens["tokenizer.ggml.token_type"][258:] = [1, 1]
    assert vocabulary(tmp_path, tokens, **{"tokenizer.ggml.pre": splitter}).encode("1212") == [259]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama', expected 'gpt2'"),
        ({"model": [1]}, "tokenizer.ggml.model is an array, expected 'gpt2'"),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre is 'llama-bpe', expected 'gpt-2'"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing, expected an array of strings"),
        ({"merges": [1]}, "tokenizer.ggml.merges is an array, expected an array of strings"),
        ({"merges": ["h  i"]}, 'merge 1 is "h  i", expected two pieces'),
        ({"token_type": [1, 1]}, "tokenizer.ggml.token_type: expected one integer for each of the 261 tokens"),
        ({"token_type": 1}, "tokenizer.ggml.token_type: expected one integer for each of the 261 tokens"),
        ({"tokens": ["a", "b", "a"], "token_type": None}, "tokens 0 and 2 are both 'a', expected one each"),
        ({"add_bos_token": True, "bos_token_id": 999}, "tokenizer.ggml.add_bos_token is True, with the id 999"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_by_name(tmp_path, changes, said):
    changes = {f"tokenizer.ggml.{key}": x for key, x in changes.items()}
    with pytest.raises(CheckpointError) as caught:
        vocabulary(tmp_path, changes).encode("a")
    assert said in str(caught.value)


def test_tokens_around_a_text_are_those_that_begin_and_end_it(tmp_path):
    keys = {"bos_token_id": 4, "eos_token_id": 3, "add_bos_token": True, "add_eos_token": True}
    around = vocabulary(tmp_path, {f"tokenizer.ggml.{key}": x for key, x in keys.items()})
    assert around.encode("hi") == [4, *around.encode_part("hi"), 3]


def test_each_id_that_ends_a_text_counts(tmp_path):
    keys = {"tokenizer.ggml.eos_token_id": 5, "tokenizer.ggml.eot_token_id": 6, "tokenizer.ggml.eom_token_id": 2}
    config = numgpt.load(write(tmp_path / "m.gguf", {**KEYS, **keys}, SMALL)).config
    assert (config.eos_token_id, config.more_eos_ids) == (5, (6, 2))
    back = convert(convert(tmp_path / "m.gguf", tmp_path / "folder"), tmp_path / "back.gguf")
    assert numgpt.load(back).config == config


# ---- split files


def parts(tmp_path, count=3, **changes):
    """A model in parts, of which the first has no tensors, as gguf-split can write it. Returns their paths."""
    paths, names = [], list(SMALL)
    for k in range(count):
        keys = {"split.no": Value("u16", k), "split.count": Value("u16", count), **(KEYS if k == 0 else {})}
        keys |= {"split.tensors.count": Value("i32", len(SMALL)), **changes}
        mine = {name: SMALL[name] for name in names[k - 1 :: count - 1]} if k else {}
        paths.append(write(tmp_path / f"m-{k + 1:05}-of-{count:05}.gguf", keys, mine))
    return paths


def test_a_split_file_is_one_model(tmp_path):
    first = parts(tmp_path)[0]
    assert_holds(first, hub_tensors())
    assert_holds(tmp_path, hub_tensors())


def test_a_part_that_is_not_the_first_is_told_so(tmp_path):
    later = parts(tmp_path)[1]
    assert fault(later, numgpt.load) == "part 2 of 3, expected the first: give m-00001-of-00003.gguf"


def test_parts_that_are_missing_or_of_another_file_are_told(tmp_path):
    paths = parts(tmp_path)
    foreign = paths[1].read_bytes()
    paths[1].unlink()
    said = "parts are missing, expected in the same folder: m-00002-of-00003.gguf: download them"
    assert fault(paths[0], numgpt.load) == said
    paths[1].write_bytes(paths[2].read_bytes())
    assert fault(paths[1], lambda _: numgpt.load(paths[0])).startswith("is no part 2 of 3")
    paths[1].write_bytes(foreign)
    write(paths[2], {"split.no": Value("u16", 2), "split.count": Value("u16", 3)}, {})
    assert fault(paths[0], numgpt.load).startswith("14 tensors in all parts, expected 28")
    again = {name: SMALL[name] for name in list(SMALL)[::2]}
    write(paths[2], {"split.no": Value("u16", 2), "split.count": Value("u16", 3)}, again)
    assert "is in another part too" in refusal(paths[0], numgpt.load)


def test_two_files_in_a_folder_are_not_chosen_between(tmp_path):
    for name in "a.gguf", "b.gguf":
        write(tmp_path / name, KEYS, SMALL)
    assert "found a.gguf, b.gguf, expected one file of weights" in refusal(tmp_path, numgpt.load)


# ---- damaged files

PLAIN = {"a": f32(np.arange(8, dtype=np.float32)), "b": f32(np.zeros((2, 4)))}


def header(n_tensors=0, n_pairs=0, version=3, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + rest


def info(name="a", sizes=(8,), kind=0, offset=0):
    return string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"GGUF", "4 bytes at byte 4, expected at most the 0 bytes left"),
        (b"GGML" + bytes(50), "begins with b'GGML', expected b'GGUF': it is no GGUF file"),
        (header(version=1), "GGUF of version 1, expected 2 or 3"),
        (header(version=4), "GGUF of version 4, expected 2 or 3"),
        (header(version=0x03000000), "a GGUF file for big-endian machines, expected a little-endian one: make it anew"),
        (header(n_tensors=2**63), "9,223,372,036,854,775,808 tensors at byte 24, expected at most the 0 bytes left"),
        (header(n_pairs=10**6), "1,000,000 pairs at byte 24, expected at most the 0 bytes left"),
        (
            header(0, 1, rest=struct.pack("<Q", 2**62) + bytes(16)),
            "bytes at byte 32, expected at most the 16 by",
        ),
        (header(0, 1, rest=string(b"\xff" * 9) + bytes(9)), "expected UTF-8"),
        (header(0, 1, rest=string("k") + struct.pack("<I", 13) + bytes(9)), "a value of type 13 at byte 37"),
        (header(0, 1, rest=string("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(9)), "a value of type 9 at byte 49"),
        (
            header(0, 1, rest=string("k") + struct.pack("<IIQ", 9, 8, 2**61)),
            "2,305,843,009,213,693,952 strings at byte",
        ),
        (
            header(0, 1, rest=string("k") + struct.pack("<IIQ", 9, 10, 2**61)),
            "18,446,744,073,709,551,616 bytes at",
        ),
        (header(0, 2, rest=2 * (string("k") + value(1))), "the key 'k' comes twice, expected once"),
        (header(1, rest=info(sizes=(1,) * 5)), "a: 5 axes, expected 1 to 4"),
        (header(1, rest=info(sizes=(0, 3))), "a: F32 of shape (3, 0), expected no axis of 0"),
        (
            header(1, rest=info(sizes=(8, 2**60))),
            "F32 of shape (1152921504606846976, 8) has 36,893,488,147,4",
        ),
        (header(1, rest=info(sizes=(48,), kind=8)), "Q8_0 of shape (48,), expected rows of a multiple of 32 numbers"),
        (
            header(1, rest=info(sizes=(128,), kind=12)),
            "Q4_K of shape (128,), expected rows of a multiple of 256",
        ),
        (header(1, rest=info(kind=19)), "a: type IQ1_S (19), expected one of F32, F16, Q4_0"),
        (header(1, rest=info(kind=4)), "a: type unknown (4), expected one of F32"),
        (
            header(1, rest=info(offset=32) + bytes(200)),
            "begins at byte 32 of the data, expected 0, where the one",
        ),
        (header(2, rest=info() + info("b") + bytes(200)), "b: begins at byte 0 of the data, expected 32"),
        (header(2, rest=info() + info(offset=32) + bytes(200)), "a: comes twice, expected once"),
        (gguf({}, PLAIN)[:-1], "b: F32 of shape (2, 4) has 32 bytes, expected at most the 31 left"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, raw, said):
    assert said in fault(write_bytes(tmp_path / "m.gguf", raw), read_gguf) or said in refusal(
        tmp_path / "m.gguf", read_gguf
    )


def test_a_file_that_has_changed_since_is_refused(tmp_path):
    path = write(tmp_path / "m.gguf", KEYS, PLAIN)
    tensor = tensors_of(path)["a"]
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="a: the file has changed"):
        tensor.read()


def test_a_tensor_under_the_hubs_name_too_is_refused(tmp_path):
    path = write(tmp_path / "m.gguf", KEYS, SMALL | {"wte.weight": SMALL["token_embd.weight"]})
    assert "token_embd.weight: is there under the Hub's name too" in refusal(path, numgpt.load)


def many_strings(length, size=11_990_000):
    """A header as large as it may be, with as many strings of a length as it can hold."""
    count = size // (8 + length)
    strings = struct.pack(f"<Q{length}s", length, b"x" * length) * count
    return header(0, 1, rest=string("k") + struct.pack("<IIQ", 9, 8, count) + strings)


@pytest.mark.thorough
def test_a_header_is_read_in_bounded_time(tmp_path):
    path = write_bytes(tmp_path / "m.gguf", many_strings(0))
    start = time.process_time()
    assert len(read_gguf(path)[0]["k"]) == 11_990_000 // 8
    assert time.process_time() - start < 2  # less than 1 s where nothing else runs
    path = write_bytes(tmp_path / "m.gguf", many_strings(2, size=60_000_000))
    assert fault(path, read_gguf).startswith(
        "6,000,000 strings at byte 49, expected at most the 11,999,951 bytes left of"
    )


def test_a_header_has_a_bounded_number_of_things(tmp_path):
    many = header(32_769, rest=bytes(32 * 32_769))
    assert fault(write_bytes(tmp_path / "m.gguf", many), read_gguf).startswith(
        "32,769 tensors, expected at most 32,768"
    )
    many = header(0, 32_769, rest=bytes(13 * 32_769))
    assert fault(write_bytes(tmp_path / "m.gguf", many), read_gguf).startswith("32,769 pairs, expected at most 32,768")


@pytest.mark.thorough
def test_many_tensors_take_bounded_memory(tmp_path):
    rest = b"".join(info(f"{i}", (1,), offset=32 * i) for i in range(32_768))
    keys = b"".join(string(key) + value(x) for key, x in KEYS.items())
    path = write_bytes(tmp_path / "m.gguf", header(32_768, len(KEYS), rest=keys + rest + bytes(32 * 32_769)))
    tracemalloc.start()
    assert len(open_gguf(look_at(path)).tensors) == 32_768
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


@pytest.mark.thorough
@pytest.mark.parametrize("length", [0, 1, 2, 10])
def test_a_header_is_read_in_bounded_memory(tmp_path, length):
    path = write_bytes(tmp_path / "m.gguf", many_strings(length))
    tracemalloc.start()
    read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


SAMPLE = gguf(
    {**KEYS, **tokenizer(11), "some.numbers": [1, 2, 3]}
    | {"tokenizer.ggml.tokens": [*"abcdefghi", "ab", "<|endoftext|>"], "tokenizer.ggml.token_type": [1] * 10 + [3]}
    | {"tokenizer.ggml.merges": ["a b"]},
    SMALL,
)
HEAD = len(SAMPLE) - sum(len(x.data) + -len(x.data) % 32 for x in SMALL.values())
HUGE = [2**63, 2**64 - 1, 2**32, 2**31, 2**31 - 1, 2**40, 0, 1, 255]


NUMBERS = [n.to_bytes(9, "little")[:width] for n in HUGE for width in (4, 8)]
DAMAGED = damaged(st.just(SAMPLE), st.integers(0, HEAD - 9), NUMBERS)


def read_all(path):
    opened = open_gguf(look_at(path))
    opened.tokenizer()
    match_params(opened.hub_tensors, opened.config, str(path))
    return opened.hub_tensors


def check_damaged(tmp_path, raw):
    path = write_bytes(tmp_path / "m.gguf", raw)
    try:
        read_all(path)
    except CheckpointError as error:
        said = str(error)
        assert said.startswith(str(path))
        assert said.isprintable()
        assert len(said) < 4000
    read_or_refused(path, tensors_of)


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
    assert len(read_all(write_bytes(tmp_path / "m.gguf", SAMPLE))) == len(SMALL)
    assert SIZES["vocab_size"] == 11

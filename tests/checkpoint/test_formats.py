"""Any format in, the same model out: told from the content, read, renamed, and written as a Hub folder."""

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support import bundles, flaxes, ggmls, ggufs, hdf5s, llmcs, pickles
from support.checkpoints import (
    CONFIG,
    SIZES,
    TOKENS,
    bf16,
    hub_tensors,
    write_checkpoint,
    write_json,
    write_safetensors,
    write_shards,
    write_tokenizer,
)
from support.hub import Hub

import numgpt
from numgpt.checkpoint import safetensors
from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.formats import FORMATS, find_weights, format_of, look_at, module_of, open_weights
from numgpt.checkpoint.reading import find_tokenizer, open_checkpoint
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.cli import main as cli
from numgpt.errors import CheckpointError
from numgpt.params import leaves

HPARAMS = {"n_vocab": 11, "n_ctx": 7, "n_embd": 6, "n_head": 2, "n_layer": 2}
MODEL_ARGS = {"vocab_size": 11, "block_size": 7, "n_embd": 6, "n_head": 2, "n_layer": 2, "bias": True, "dropout": 0.0}
IDS = [3, 1, 4, 1, 5]


def tensors_of_4c():
    """The parameters of a model whose MLP is four times as wide, as OpenAI's and nanoGPT's always are."""
    return hub_tensors(n_inner=24)


def saved(tensors):
    """A state dict as torch.save writes it: the pickled code, and the bytes of each storage."""
    code, storages = {}, {}
    for i, (name, x) in enumerate(tensors.items()):
        strides = [step // x.itemsize for step in x.strides]
        code[name] = pickles.tensor(pickles.storage("F32", str(i), x.size), x.shape, tuple(strides))
        storages[str(i)] = x.tobytes()
    return code, storages


def write_zip(path, value, storages):
    path.write_bytes(pickles.archive(value, storages))


def write_legacy(path, value, storages):
    path.write_bytes(pickles.legacy(value, {key: (len(raw) // 4, raw) for key, raw in storages.items()}))


def openai(tensors):
    """The same under OpenAI's names, each w with its leading axis."""
    renamed = {}
    for name, x in tensors.items():
        stem, _, last = name.rpartition(".")
        if stem in ("wte", "wpe"):
            renamed[f"model/{stem}"] = x
            continue
        letter = "b" if last == "bias" else "g" if "ln_" in stem else "w"
        path = stem.replace("h.", "h", 1).replace(".", "/")
        renamed[f"model/{path}/{letter}"] = x[None] if letter == "w" else x
    return renamed


def write_openai(folder, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: bundles.Tensor("F32", x.shape, x.tobytes()) for name, x in openai(tensors).items()}
    bundles.save(folder / "model.ckpt", stored)
    write_json(folder / "hparams.json", HPARAMS)
    return folder


def nanogpt(tensors):
    """The same in nanoGPT's layout: the matrices of nn.Linear are transposed, and the head is wte once more."""
    linear = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    turned = {name: np.ascontiguousarray(x.T) if name.endswith(linear) else x for name, x in tensors.items()}
    return {f"_orig_mod.transformer.{name}": x for name, x in turned.items()} | {
        "_orig_mod.lm_head.weight": turned["wte.weight"]
    }


def write_nanogpt(path, tensors, **model_args):
    code, storages = saved(nanogpt(tensors))
    write_zip(path, {"model": code, "model_args": {**MODEL_ARGS, **model_args}, "iter_num": 7}, storages)
    return path


def write_shards_of_torch(folder, tensors):
    write_json(folder / "config.json", {**CONFIG, "n_inner": None})
    names, weight_map = list(tensors), {}
    for k in range(2):
        file = f"pytorch_model-{k + 1:05}-of-00002.bin"
        write_zip(folder / file, *saved({name: tensors[name] for name in names[k::2]}))
        weight_map |= dict.fromkeys(names[k::2], file)
    return write_json(folder / "pytorch_model.bin.index.json", {"weight_map": weight_map})


def write_openai_named_by_its_checkpoint_file(folder, tensors):
    index = write_openai(folder, tensors) / "model.ckpt.index"
    for path in index, index.with_name("model.ckpt.data-00000-of-00001"):
        path.rename(path.with_name(path.name.replace("model.ckpt", "model-7")))
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model-7"\n')
    return folder / "checkpoint"


def write_step_of_openai(folder, tensors):
    write_openai_named_by_its_checkpoint_file(folder, tensors).unlink()
    return folder


def assert_same(model, expected, **config):
    assert model.config == expected.config._replace(**config)
    for (path, x), (other, y) in zip(leaves(model.params), leaves(expected.params), strict=True):
        assert path == other
        assert_array_equal(x, y, err_msg=path)
        assert x.dtype == y.dtype
        assert x.flags.forc
        assert x.flags.aligned
        assert x.flags.writeable


@pytest.fixture
def expected(tmp_path):
    """The model, read from the Hub's own layout."""
    config = {**CONFIG, "n_inner": None}
    return numgpt.load(write_checkpoint(tmp_path / "expected", tensors_of_4c(), config))


# ---- reading


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_file_of_torch_is_the_same_model(tmp_path, expected, write):
    folder = tmp_path / "folder"
    folder.mkdir()
    write_json(folder / "config.json", {**CONFIG, "n_inner": None})
    write(folder / "pytorch_model.bin", *saved(tensors_of_4c()))
    assert open_weights(folder / "pytorch_model.bin").kind == "pytorch"
    assert_same(numgpt.load(folder), expected)


def test_openais_checkpoint_is_the_same_model(tmp_path, expected):
    folder = write_openai(tmp_path / "124M", tensors_of_4c())
    assert open_checkpoint(folder).kind == "tensorflow"
    assert_same(numgpt.load(folder), expected)
    assert_same(numgpt.load(folder / "model.ckpt.index"), expected)


def test_an_axis_of_one_that_is_the_models_own_is_not_taken_away(tmp_path):
    """Only the leading axis of a w goes: with a width of 1 all other axes are 1 too."""
    tensors = hub_tensors(n_embd=1, n_inner=4)
    folder = write_openai(tmp_path / "thin", tensors)
    write_json(folder / "hparams.json", {**HPARAMS, "n_embd": 1, "n_head": 1})
    params = numgpt.load(folder).params
    assert params["wte"].shape == (11, 1)
    assert params["h"][1]["attn"]["c_attn"]["w"].shape == (1, 3)
    assert params["h"][1]["attn"]["c_proj"]["w"].shape == (1, 1)


def test_nanogpts_checkpoint_is_the_same_model_with_the_exact_gelu(tmp_path, expected):
    path = write_nanogpt(tmp_path / "ckpt.pt", tensors_of_4c())
    assert open_weights(path).kind == "nanogpt"
    assert_same(numgpt.load(path), expected, activation_function="gelu")
    assert_same(numgpt.load(tmp_path), expected, activation_function="gelu")


def test_a_nanogpt_without_biases_has_zeros(tmp_path, expected):
    tensors = {name: x for name, x in tensors_of_4c().items() if not name.endswith(".bias")}
    params = numgpt.load(write_nanogpt(tmp_path / "ckpt.pt", tensors, bias=False)).params
    for path, x in leaves(params):
        if path.endswith(".b"):
            assert not x.any()
            assert x.dtype == np.float32
    assert_array_equal(params["ln_f"]["g"], expected.params["ln_f"]["g"])


def test_a_nanogpt_that_lost_one_bias_is_incomplete(tmp_path):
    tensors = tensors_of_4c()
    del tensors["h.0.mlp.c_fc.bias"]
    with pytest.raises(CheckpointError, match=r"missing: h\.0\.mlp\.c_fc\.b$"):
        numgpt.load(write_nanogpt(tmp_path / "ckpt.pt", tensors))


@pytest.mark.parametrize("size", [50257, 50304])
def test_a_nanogpt_of_gpt2s_vocabulary_gets_its_tokenizer_and_no_padding(tmp_path, size):
    tensors = hub_tensors(vocab_size=size, n_inner=24)
    model = numgpt.load(write_nanogpt(tmp_path / "ckpt.pt", tensors, vocab_size=size))
    assert model.tokenizer.encode("Hello world") == [15496, 995]
    assert model.config.n_tokens == 50257
    assert model.config.eos_token_id == 50256


def test_a_nanogpt_of_another_vocabulary_has_no_tokenizer(tmp_path):
    assert numgpt.load(write_nanogpt(tmp_path / "ckpt.pt", tensors_of_4c())).tokenizer is None


@pytest.mark.parametrize("args", [{"n_head": 4}, {"n_layer": 3}, {"n_embd": 8}, {"n_layer": 10**9}, {"n_embd": "6"}])
def test_sizes_of_a_nanogpt_that_do_not_fit_are_refused(tmp_path, args):
    with pytest.raises(CheckpointError):
        numgpt.load(write_nanogpt(tmp_path / "ckpt.pt", tensors_of_4c(), **args))


BARE = {"dropout": 0.0, "lr": 3e-4, "layers": 2, "dim": 6, "heads of another kind": 2}


@pytest.mark.parametrize("said", [{}, {"config": BARE}, {"model_args": BARE}, {"model_args": BARE, "config": BARE}])
def test_a_file_that_does_not_say_the_heads_is_asked_for_them_alone(tmp_path, expected, said):
    code, storages = saved(nanogpt(tensors_of_4c()))
    path = tmp_path / "ckpt.pt"
    write_zip(path, {"model": code, "step": 7, **said}, storages)
    with pytest.raises(CheckpointError, match="nothing says n_head, the number of heads") as caught:
        numgpt.load(path)
    assert len(str(caught.value)) < 400
    assert_same(numgpt.load(path, n_head=2), expected, activation_function="gelu")
    assert_same(numgpt.load(path, n_head=2, activation_function="gelu_new"), expected)


@pytest.mark.parametrize("key", ["n_head", "n_heads", "num_heads", "num_attention_heads"])
@pytest.mark.parametrize("where", ["model_args", "config", "hparams", "hyper_parameters", "args"])
def test_the_heads_come_from_the_configuration_in_the_file_whatever_it_is_called(tmp_path, expected, key, where):
    code, storages = saved(nanogpt(tensors_of_4c()))
    write_zip(tmp_path / "ckpt.pt", {"model": code, where: {**BARE, key: 2}, "optimizer": {"lr": 1}}, storages)
    assert_same(numgpt.load(tmp_path / "ckpt.pt"), expected, activation_function="gelu")


def test_a_state_dict_alone_is_read_by_its_shapes_and_by_a_config_beside_it(tmp_path, expected):
    write_zip(tmp_path / "model.pt", *saved(nanogpt(tensors_of_4c())))
    assert_same(numgpt.load(tmp_path / "model.pt", n_head=2), expected, activation_function="gelu")
    write_json(tmp_path / "config.json", {"heads": 2, "activation": "gelu_fast", "layers": 2})
    assert_same(numgpt.load(tmp_path), expected)


def test_safetensors_with_the_matrices_of_nn_linear_are_read_as_a_file_of_torch_is(tmp_path, expected):
    write_safetensors(tmp_path / "model.safetensors", nanogpt(tensors_of_4c()))
    assert_same(numgpt.load(tmp_path, n_head=2), expected, activation_function="gelu")


def test_what_is_written_says_each_size_once_under_the_hubs_name(tmp_path):
    stale = {"max_position_embeddings": 99, "n_ctx": 99, "n_heads": 3, "activation": "relu", "ln_eps": 1e-3}
    sizes = {"vocab_size": 99, "attn_pdrop": 0.25, "hidden_size": 6}
    folder = write_checkpoint(tmp_path / "m", config={**stale, **sizes})
    model = numgpt.load(folder, n_head=2, activation_function="gelu")
    convert(folder, tmp_path / "copy", given={"n_head": 2, "activation_function": "gelu"})
    assert_same(numgpt.load(tmp_path / "copy"), model)
    written = json.loads((tmp_path / "copy" / "config.json").read_text(encoding="utf-8"))
    assert (written["n_positions"], written["vocab_size"], written["attn_pdrop"]) == (7, 11, 0.25)
    assert written.keys().isdisjoint({*stale, "hidden_size"})


def test_the_kind_is_told_from_the_content_and_not_from_the_name(tmp_path, expected):
    config = {**CONFIG, "n_inner": None}
    torch_as_safetensors, safetensors_as_torch = tmp_path / "a", tmp_path / "b"
    for folder in torch_as_safetensors, safetensors_as_torch:
        folder.mkdir()
        write_json(folder / "config.json", config)
    write_zip(torch_as_safetensors / "model.safetensors", *saved(tensors_of_4c()))
    write_safetensors(safetensors_as_torch / "pytorch_model.bin", tensors_of_4c())
    assert_same(numgpt.load(torch_as_safetensors), expected)
    assert_same(numgpt.load(safetensors_as_torch), expected)


@pytest.mark.parametrize("low_byte", [0x80, 0x50, 0x7B])
def test_the_length_of_a_header_may_look_like_another_kind(tmp_path, low_byte):
    """The first byte of a safetensors file is the low byte of a length: also that of a pickle, of a zip, of JSON."""
    text = json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    text = text.ljust(256 + low_byte)
    (tmp_path / "model").write_bytes(len(text).to_bytes(8, "little") + text + b"\7")
    assert (tmp_path / "model").read_bytes()[0] == low_byte
    assert format_of(look_at(tmp_path / "model")) is safetensors


def test_an_index_may_have_its_second_brace_where_safetensors_has_its_first(tmp_path, expected):
    write_safetensors(tmp_path / "model-00001-of-00001.safetensors", tensors_of_4c())
    weight_map = dict.fromkeys(tensors_of_4c(), "model-00001-of-00001.safetensors")
    text = '{"map" :{}, "weight_map": ' + json.dumps(weight_map) + "}"
    assert text[8] == "{"
    (tmp_path / "model.safetensors.index.json").write_text(text)
    write_json(tmp_path / "config.json", {**CONFIG, "n_inner": None})
    assert_same(numgpt.load(tmp_path), expected)


def test_shards_of_torch_are_one_model(tmp_path, expected):
    write_shards_of_torch(tmp_path, tensors_of_4c())
    assert_same(numgpt.load(tmp_path), expected)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"shards are missing.*pytorch_model-00002-of-00002\.bin"):
        numgpt.load(tmp_path)


def test_what_is_left_over_or_missing_is_said_in_one_message_for_every_format(tmp_path):
    tensors = tensors_of_4c() | {"extra.weight": np.zeros((2, 6), np.float32)}
    del tensors["ln_f.bias"]
    write_openai(tmp_path / "tf", tensors)
    write_nanogpt(tmp_path / "ckpt.pt", tensors)
    for path in tmp_path / "tf", tmp_path / "ckpt.pt":
        with pytest.raises(CheckpointError, match=r"missing: ln_f\.b; left over: (model\.extra\.w|extra\.weight)$"):
            numgpt.load(path)


def write_gguf(folder, tensors):
    keys = {**ggufs.KEYS, "gpt2.feed_forward_length": 24, "tokenizer.ggml.eos_token_id": 50256}
    return ggufs.write(folder / "any.gguf", keys, {name: ggufs.f32(x) for name, x in ggufs.renamed(tensors).items()})


def write_flax(folder, tensors, name="flax_model.msgpack"):
    write_json(folder / "config.json", {**CONFIG, "n_inner": None})
    return flaxes.write(folder / name, flaxes.model(tensors))


def write_shards_of_flax(folder, tensors):
    write_json(folder / "config.json", {**CONFIG, "n_inner": None})
    return flaxes.write_shards(folder, tensors)


def write_ggml(path, tensors):
    sizes = (len(tensors["wte.weight"]), *ggmls.SIZES[1:])
    return ggmls.write(path, ggmls.small(tensors), sizes=sizes)


def write_keras(path, tensors):
    write_json(path.with_name("config.json"), {**CONFIG, "n_inner": None})
    return hdf5s.write(path, hdf5s.renamed(tensors))


def write_shards_of_keras(folder, tensors):
    write_json(folder / "config.json", {**CONFIG, "n_inner": None})
    stored, weight_map = hdf5s.renamed(tensors, "transformer/"), {}
    for k in range(2):
        file = f"tf_model-{k + 1:05}-of-00002.h5"
        part = dict(list(stored.items())[k::2])
        hdf5s.write(folder / file, part)
        weight_map |= {f"tfgpt2lm_head_model/{name}": file for name in part}
    return write_json(folder / "tf_model.h5.index.json", {"weight_map": weight_map})


# Of each file name in the table, and of each ending: what writes it into a folder, with all that belongs to it. An
# ending that a second format has too is named with its module.
CONFIGURED = {**CONFIG, "n_inner": None}
SAMPLES = {
    "model.safetensors": lambda folder, x: write_checkpoint(folder, x, CONFIGURED),
    "model.safetensors.index.json": lambda folder, x: write_shards(folder, x, CONFIGURED),
    "pytorch_model.bin": lambda folder, x: write_zip(
        write_json(folder / "config.json", CONFIGURED).with_name("pytorch_model.bin"), *saved(x)
    ),
    "pytorch_model.bin.index.json": write_shards_of_torch,
    "ckpt.pt": lambda folder, x: write_nanogpt(folder / "ckpt.pt", x),
    "checkpoint": write_openai_named_by_its_checkpoint_file,
    "model.ckpt.index": write_openai,
    ".safetensors": lambda folder, x: write_checkpoint(folder, x, CONFIGURED, name="any.safetensors"),
    ".bin": lambda folder, x: write_nanogpt(folder / "any.bin", x),
    ".pt": lambda folder, x: write_nanogpt(folder / "any.pt", x),
    ".pth": lambda folder, x: write_nanogpt(folder / "any.pth", x),
    ".ckpt": lambda folder, x: write_nanogpt(folder / "epoch=3-step=12.ckpt", x),
    ".index": write_step_of_openai,
    ".gguf": write_gguf,
    "flax_model.msgpack": write_flax,
    "flax_model.msgpack.index.json": write_shards_of_flax,
    ".msgpack": lambda folder, x: write_flax(folder, x, "any.msgpack"),
    ".ggml": lambda folder, x: write_ggml(folder / "any.ggml", x),
    ".bin of ggml": lambda folder, x: write_ggml(folder / "any.bin", x),
    ".bin of llmc": lambda folder, x: llmcs.write(folder / "any.bin", llmcs.model(x)),
    "tf_model.h5": lambda folder, x: write_keras(folder / "tf_model.h5", x),
    "tf_model.h5.index.json": write_shards_of_keras,
    ".h5": lambda folder, x: write_keras(folder / "any.h5", x),
}


@pytest.mark.parametrize(
    ("format", "name"), [(format, name) for format in FORMATS for name in (*format.names, *format.endings)]
)
def test_a_folder_of_each_kind_is_found_told_and_opened(tmp_path, expected, format, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    SAMPLES.get(f"{name} of {format.module}", SAMPLES.get(name))(folder, tensors_of_4c())
    found = find_weights(folder)
    assert found.name.endswith(name)
    assert [other for other in FORMATS if module_of(other).is_mine(look_at(found))] == [format]
    opened = module_of(format).open_weights(look_at(found))
    assert isinstance(opened, Opened)
    assert opened.weights.parent == folder
    assert opened.folder == (None if format.whole else folder)
    assert len(opened.tensors) == len(opened.hub_tensors)
    assert (opened.check is not None) == (format.module == "tensorflow")
    assert_same(numgpt.load(folder), expected, activation_function=opened.config.activation_function)
    assert [opened.kind for opened in (open_checkpoint(folder), open_checkpoint(found))] == [opened.kind] * 2


def test_every_format_of_the_table_has_the_same_two_functions():
    for format in FORMATS:
        module = module_of(format)
        assert list(inspect.signature(module.is_mine).parameters) == ["glance"]
        assert list(inspect.signature(module.open_weights).parameters) == ["glance"]
        assert module.is_mine(look_at(Path("no such file"))) is False


def test_what_lies_beside_the_tensors_is_left_out_and_told(tmp_path):
    code, storages = saved(tensors_of_4c())
    write_json(tmp_path / "config.json", {**CONFIG, "n_inner": None})
    write_zip(tmp_path / "x.pt", {"model_state_dict": code, "optimizer": {"lr": 0.1}, "epoch": 3}, storages)
    opened = open_checkpoint(tmp_path)
    assert opened.left_out == {"optimizer": "beside the state dict", "epoch": "beside the state dict"}
    assert open_checkpoint(write_checkpoint(tmp_path / "y")).left_out == {}


def test_of_several_steps_of_openai_the_last_counts_and_the_others_are_told(tmp_path, expected):
    for step, tensors in (900, {n: x * 0 for n, x in tensors_of_4c().items()}), (1000, tensors_of_4c()):
        write_openai(tmp_path / "run1", tensors)
        for path in (tmp_path / "run1").glob("model.ckpt.*"):
            path.rename(path.with_name(path.name.replace("model.ckpt", f"model-{step}")))
    (tmp_path / "run1" / "counter").write_text("1000")
    assert_same(numgpt.load(tmp_path / "run1"), expected)
    assert open_checkpoint(tmp_path / "run1").left_out == {"model-900.index": "another checkpoint in the folder"}
    assert not numgpt.load(tmp_path / "run1" / "model-900.index").params["wte"].any()


def test_weights_are_found_by_what_they_are_where_no_name_tells(tmp_path, expected):
    write_nanogpt(tmp_path / "step_500", tensors_of_4c())
    for name in "optimizer.pt", "training_args.bin", "adapter_model.bin", "meta.pkl":
        write_zip(tmp_path / name, {"state": {}}, {})
    (tmp_path / "notes").write_text("of the training")
    assert find_weights(tmp_path).name == "step_500"
    (tmp_path / "adapter_model.bin").unlink()
    copied = {file.name for file in convert(tmp_path, tmp_path.with_name("copy of it")).iterdir()}
    assert copied == {"config.json", "model.safetensors", "optimizer.pt", "training_args.bin", "meta.pkl", "notes"}
    write_nanogpt(tmp_path / "step_1000", tensors_of_4c())
    with pytest.raises(CheckpointError, match="found step_1000, step_500, expected one file of weights"):
        find_weights(tmp_path)


def test_a_format_may_bring_its_own_tokenizer(tmp_path):
    write_nanogpt(tmp_path / "ckpt.pt", tensors_of_4c())
    opened = open_checkpoint(tmp_path)
    own = gpt2()
    assert find_tokenizer(opened) is None
    assert find_tokenizer(opened._replace(tokenizer=lambda: own)) is own
    write_tokenizer(tmp_path)
    assert len(find_tokenizer(opened._replace(tokenizer=lambda: own))) == TOKENS  # the files beside it come first
    assert find_tokenizer(opened._replace(tokenizer=lambda: own, folder=None)) is own


def test_safetensors_come_first_in_a_folder_that_has_several_formats(tmp_path):
    for name in "model.safetensors", "pytorch_model.bin", "ckpt.pt", "model.ckpt.index", "other.safetensors":
        (tmp_path / name).write_bytes(b"")
    assert find_weights(tmp_path).name == "model.safetensors"
    order = []
    while any(tmp_path.iterdir()):
        found = find_weights(tmp_path)
        order.append(found.name)
        found.unlink()
    assert order == ["model.safetensors", "pytorch_model.bin", "ckpt.pt", "model.ckpt.index", "other.safetensors"]


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no weights, expected one of model\.safetensors, .* or \S+: is the checkpoint"
    ):
        find_weights(tmp_path)
    for name in "a.pt", "b.pt":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"found a\.pt, b\.pt, expected one file of weights: give the path of one"
    ):
        find_weights(tmp_path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"GGUF\x03\0\0\0" + bytes(40), "general.architecture is missing, expected 'gpt2'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "48 bytes, expected at least 96"),
        (b"<!DOCTYPE html><html>" + bytes(40), "it looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it looks like a Git LFS pointer"),
        (b"", "0 bytes, expected at least 8"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, start, message):
    path = tmp_path / "model.bin"
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match=message):
        open_weights(path)


# ---- writing


LIKE_ANOTHER = [name for name in SAMPLES if name.startswith(".") or "index" in name]
NAMES = [
    pytest.param(name, marks=pytest.mark.thorough if name in LIKE_ANOTHER else ())
    for name in SAMPLES
    if name != ".gguf"
]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_converts_to_a_folder_and_to_gguf_and_back_and_nothing_is_lost(tmp_path, name):
    (tmp_path / "source").mkdir()
    SAMPLES[name](tmp_path / "source", hub_tensors(TOKENS, n_inner=24))
    write_tokenizer(tmp_path / "source")
    given = {"eos_token_id": TOKENS - 1}
    source = numgpt.load(tmp_path / "source", **given)
    ids = source.tokenizer.encode("hi, hi there")
    folder = convert(tmp_path / "source", tmp_path / "folder", given=given)
    paths = [folder]
    if source.config.activation_function == "gelu":  # nanoGPT's, which GGUF can not describe
        with pytest.raises(CheckpointError, match="gelu"):
            convert(folder, tmp_path / "m.gguf")
    else:
        gguf = convert(folder, tmp_path / "m.gguf")
        paths += gguf, convert(gguf, tmp_path / "back")
    for path in paths:
        assert_same(numgpt.load(path), source)
        assert numgpt.load(path).tokenizer.encode("hi, hi there") == ids


def test_a_conversion_keeps_dtypes_settings_and_an_untied_head(tmp_path):
    tensors = {name: x.astype(np.float16) for name, x in hub_tensors().items()}
    tensors["lm_head.weight"] = np.ones((11, 6), np.float16)
    source = write_checkpoint(
        tmp_path / "source", tensors, {**CONFIG, "resid_pdrop": 0.3, "n_ctx": 5, "bos_token_id": 1, "eos_token_id": 2}
    )
    write_json(source / "generation_config.json", {"eos_token_id": 2})
    target = convert(source, tmp_path / "target")
    assert {tensor.dtype for tensor in open_checkpoint(target).tensors.values()} == {"F16"}
    assert_same(numgpt.load(target), numgpt.load(source))
    config = json.loads((target / "config.json").read_text())
    assert config["resid_pdrop"] == 0.3
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert json.loads((target / "generation_config.json").read_text()) == {"eos_token_id": 2}
    assert config["tie_word_embeddings"] is False
    assert config["n_positions"] == 7
    assert "n_ctx" not in config


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        (["float16"], "float16"),
        (["float32"], "float32"),
        (["float16", "float32"], "float32"),
        (["bfloat16", "float16"], "float32"),
        (["bfloat16"], "bfloat16"),
        (["float32", "float64"], "float64"),
    ],
)
def test_a_conversion_says_the_dtype_that_holds_all_tensors(tmp_path, kinds, dtype):
    def stored(x, kind):
        return bf16(x) if kind == "bfloat16" else x.astype(kind)

    tensors = {name: stored(x, kinds[i % len(kinds)]) for i, (name, x) in enumerate(hub_tensors().items())}
    source = write_checkpoint(tmp_path / "source", tensors, {**CONFIG, "torch_dtype": "float16", "dtype": "int8"})
    written = json.loads((convert(source, tmp_path / "target") / "config.json").read_text())
    assert written["dtype"] == dtype
    assert "torch_dtype" not in written


def test_a_conversion_takes_the_tokenizer_along(tmp_path):
    source = write_tokenizer(
        write_checkpoint(tmp_path / "source", hub_tensors(vocab_size=258), {**CONFIG, "vocab_size": 258})
    )
    target = convert(source, tmp_path / "target")
    for name in "vocab.json", "merges.txt":
        assert (target / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.thorough
def test_a_conversion_writes_gpt2s_vocabulary_as_the_hub_has_it(tmp_path):
    path = write_nanogpt(tmp_path / "ckpt.pt", hub_tensors(vocab_size=50257, n_inner=24), vocab_size=50257)
    target = convert(path, tmp_path / "target")
    assert (target / "merges.txt").read_bytes() == (Path(numgpt.__file__).parent / "data" / "vocab.bpe").read_bytes()
    tokenizer = numgpt.load(target).tokenizer
    assert tokenizer.vocabulary == gpt2().vocabulary
    assert tokenizer.special_tokens == gpt2().special_tokens


def test_a_conversion_never_writes_over_what_is_there(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    assert convert(source, target) == target  # an empty folder is fine
    before = sorted((path.name, path.stat().st_mtime_ns) for path in target.iterdir())
    with pytest.raises(CheckpointError, match="target: is there already, expected a new folder: choose another name"):
        convert(source, target)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in target.iterdir()) == before


def test_a_conversion_can_be_into_the_working_folder(tmp_path, monkeypatch, expected):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert convert(tmp_path / "expected", ".") == tmp_path / "empty"
    assert_same(numgpt.load(tmp_path / "empty"), expected)


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    source = write_checkpoint(tmp_path / "source")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CheckpointError, match="can't be written: No space left on device: free some space"):
        convert(source, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_sizes_of_the_test_are_those_of_the_formats():
    """The dicts of sizes at the top say the same in three languages."""
    assert [HPARAMS["n_vocab"], HPARAMS["n_ctx"]] == [MODEL_ARGS["vocab_size"], MODEL_ARGS["block_size"]]
    assert [SIZES["vocab_size"], SIZES["n_positions"]] == [HPARAMS["n_vocab"], HPARAMS["n_ctx"]]


# ---- the commands


def command(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_inspect_checks_the_checksums_of_tensorflows_files(capsys, tmp_path):
    folder = write_openai(tmp_path / "124M", tensors_of_4c())
    code, out, err = command(capsys, "inspect", "-m", str(folder), "--check")
    assert code == 0
    assert "model/h0/attn/c_attn/w" in out
    assert err == "numgpt: the checksums of all 28 tensors are right\n"
    data = folder / "model.ckpt.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1  # of model/wte, the last one in the order of names
    data.write_bytes(raw)
    code, out, err = command(capsys, "inspect", "-m", str(folder), "--check")
    assert code == 1
    assert err.endswith("model.ckpt.index: damaged: model/wte: download it again\n")


def test_inspect_says_so_where_a_format_has_no_checksums(capsys, tmp_path):
    code, _, err = command(capsys, "inspect", "-m", str(write_checkpoint(tmp_path / "m")), "--check")
    assert code == 1
    assert "a safetensors file has no checksums" in err


def test_the_command_converts_and_prints_where_to(capsys, tmp_path, expected):
    write_openai(tmp_path / "tf", tensors_of_4c())
    target = str(tmp_path / "target")
    assert command(capsys, "convert", str(tmp_path / "tf"), target) == (0, f"{target}\n", "")
    assert_same(numgpt.load(target), expected)
    code, _, err = command(capsys, "convert", str(tmp_path / "tf"), target)
    assert code == 1
    assert "is there already, expected a new folder" in err


def test_a_name_is_downloaded_on_first_use_and_found_after_that(capsys, tmp_path, monkeypatch, expected):
    files = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("owner/name", files)
        assert_same(numgpt.load("owner/name"), expected)
        code, out, err = command(capsys, "download", "owner/name@main")
        assert (code, out) == (0, f"{tmp_path / 'weights' / 'owner/name@main'}\n")
        assert "model.safetensors: " in err
        assert command(capsys, "download", "owner/name@main", "-q", "--json")[2] == ""
    assert_same(numgpt.load("owner/name"), expected)  # without the server


@pytest.mark.parametrize("name", ["flax_model.msgpack", "flax_model.msgpack.index.json"])
def test_a_repository_that_has_files_of_flax_alone_is_downloaded_and_read(tmp_path, monkeypatch, expected, name):
    (tmp_path / "made").mkdir()
    SAMPLES[name](tmp_path / "made", tensors_of_4c())
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("owner/name", {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()})
        assert_same(numgpt.load("owner/name"), expected)
    assert_same(numgpt.load("owner/name"), expected)  # without the server

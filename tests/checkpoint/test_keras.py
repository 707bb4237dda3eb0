"""tf_model.h5, read: what Transformers 4 saved, and hand-made files in all its spellings."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from support.checkpoints import CONFIG, hub_tensors, write_json
from support.hdf5s import NEW, OLD, hdf5, renamed
from support.hdf5s import write as write_hdf5
from support.readers import fault, fuzz, read_or_refused, refusal
from support.readers import write as write_bytes

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.formats import look_at
from numgpt.checkpoint.keras import hub_name, open_weights
from numgpt.checkpoint.names import match_params
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.errors import CheckpointError
from numgpt.params import leaves

SAVED = Path(__file__).parents[1] / "reference" / "keras.npz"
HEADS = {
    "multiple_choice_head/tfgpt2_double_heads_model/multiple_choice_head/summary/kernel:0": np.zeros((6, 1)),
    "score/tfgpt2_for_sequence_classification/score/kernel:0": np.zeros((6, 2)),
}


def write_model(folder, tensors=None, name="tf_model.h5", config=CONFIG, **how):
    """Write a file in the layout of Keras, with a config.json beside it. Returns its path."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", config)
    return write_hdf5(folder / name, renamed(hub_tensors()) if tensors is None else tensors, **how)


def write_shards(folder, tensors=None, prefix="tfgpt2lm_head_model/", shards=2):
    """Write a model in several files: in the index, each name has one group more than in its file."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    tensors = renamed(hub_tensors(), "transformer/") if tensors is None else tensors
    weight_map, names = {}, list(tensors)
    for k in range(shards):
        file = f"tf_model-{k + 1:05}-of-{shards:05}.h5"
        write_hdf5(folder / file, {name: tensors[name] for name in names[k::shards]})
        weight_map |= {prefix + name: file for name in names[k::shards]}
    return write_json(folder / "tf_model.h5.index.json", {"metadata": {"total_size": 0}, "weight_map": weight_map})


def assert_holds(path, expected, dtype=np.float32):
    params = dict(leaves(numgpt.load(path).params))
    assert len(params) == len(expected)
    for leaf, x in params.items():
        stem, dot, last = leaf.rpartition(".")
        name = f"{stem}.{'bias' if last == 'b' else 'weight'}" if dot else f"{leaf}.weight"
        assert_array_equal(x, expected[name], err_msg=leaf)
        assert x.dtype == dtype


# ---- what Transformers saved


def unpack(folder, name):
    """Write the files that were saved under a name. Returns the ids, and TensorFlow's logits."""
    with np.load(SAVED) as saved:
        for entry in saved:
            if entry.startswith(f"{name}/") and not entry.endswith("/logits"):
                (folder / entry.split("/")[1]).write_bytes(saved[entry].tobytes())
        return saved["ids"], saved[f"{name}/logits"]


@pytest.mark.parametrize("name", ["whole", "shards", "unnamed", "double", "trained"])
def test_what_transformers_saved_gives_the_logits_of_tensorflow(tmp_path, name):
    """Whole, in several files, with no name of the model in any, with a head more, with an optimizer's state."""
    ids, logits = unpack(tmp_path, name)
    opened = open_checkpoint(tmp_path)
    assert (opened.kind, len(opened.tensors), len(opened.hub_tensors)) == ("keras", 28, 28)
    assert opened.folder == tmp_path
    assert opened.settings["attn_pdrop"] == 0.1
    model = numgpt.load(tmp_path)
    exact = numgpt.load(tmp_path, dtype="float64")
    assert_allclose(numgpt.forward(ids, exact.params, exact.config), logits, rtol=0, atol=3e-6 * abs(logits).max())
    assert_allclose(numgpt.forward(ids, model.params, model.config), logits, rtol=0, atol=3e-6 * abs(logits).max())
    reasons = {"double": 2 * ["the head of a classifier"], "trained": 57 * ["the state of the optimizer"]}
    assert sorted(opened.left_out.values()) == reasons.get(name, [])
    assert not opened.left_out.keys() & opened.tensors.keys()


def test_a_conversion_of_it_is_the_same_model(tmp_path):
    ids, _ = unpack(tmp_path, "whole")
    one, other = numgpt.load(tmp_path), numgpt.load(convert(tmp_path, tmp_path / "copy"))
    assert_array_equal(
        numgpt.forward(ids, one.params, one.config),
        numgpt.forward(ids, other.params, other.config),
    )
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["config.json", "model.safetensors"]


# ---- spellings


@pytest.mark.parametrize(
    "prefix",
    [
        NEW,
        OLD,
        "transformer/tfgpt2_model/transformer/",
        "transformer/transformer/",
        "transformer/",
        "",
        "model_weights/tfgpt2lm_head_model_1/tfgpt2lm_head_model_1/transformer/",
    ],
)
@pytest.mark.parametrize("wte", ["weight", "embeddings"])
def test_what_follows_the_last_group_called_transformer_counts(tmp_path, prefix, wte):
    path = write_model(tmp_path, {**renamed(hub_tensors(), prefix, wte), "top_level_model_weights": None})
    assert f"{prefix}h_._0/attn/c_attn/weight:0" in open_checkpoint(path).tensors
    assert_holds(tmp_path, hub_tensors())
    assert numgpt.load(path).config.tie_word_embeddings


def test_a_group_whose_name_ends_like_transformer_is_not_it():
    assert hub_name("a/transformer/not_transformer/wte/weight:0") == "not_transformer.wte.weight"


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "F16"), (np.float32, "F32"), (np.float64, "F64")])
def test_each_type_of_floats(tmp_path, dtype, name):
    path = write_model(tmp_path, {key: x.astype(dtype) for key, x in renamed(hub_tensors()).items()})
    assert {tensor.dtype for tensor in open_checkpoint(path).tensors.values()} == {name}
    assert_holds(path, hub_tensors(), np.float64 if dtype == np.float64 else np.float32)


def test_matrices_are_not_turned_and_biases_lose_their_axis(tmp_path):
    square = hub_tensors(vocab_size=6, n_positions=6, n_inner=6)
    config = {**CONFIG, "vocab_size": 6, "n_positions": 6, "n_inner": 6}
    path = write_model(tmp_path, renamed(square), config=config)
    assert_holds(path, square)
    opened = open_checkpoint(path)
    assert opened.tensors[f"{NEW}h_._1/mlp/c_fc/bias:0"].shape == (1, 6)
    assert opened.hub_tensors["h.1.mlp.c_fc.bias"].shape == (6,)


def test_an_embedding_of_one_row_keeps_its_axes(tmp_path):
    one = hub_tensors(vocab_size=1, n_positions=1, n_embd=1, n_inner=1)
    config = {**CONFIG, "vocab_size": 1, "n_positions": 1, "n_embd": 1, "n_head": 1, "n_inner": 1}
    assert_holds(write_model(tmp_path, renamed(one), config=config), one)


def test_ten_layers_and_more_are_in_their_order(tmp_path):
    deep = hub_tensors(n_layer=12)
    assert_holds(write_model(tmp_path, renamed(deep), config={**CONFIG, "n_layer": 12}, per_node=3), deep)


def test_heads_and_the_optimizer_are_left_out_and_told(tmp_path):
    optimizer = {f"optimizer_weights/Adam/m/{NEW}wte/embeddings:0": np.zeros((11, 6), np.float32)}
    optimizer["optimizer_weights/iteration:0"] = np.array(7)
    path = write_model(tmp_path, {**renamed(hub_tensors()), **HEADS, **optimizer})
    assert open_checkpoint(path).left_out == {
        **dict.fromkeys(HEADS, "the head of a classifier"),
        **dict.fromkeys(optimizer, "the state of the optimizer"),
    }
    assert_holds(path, hub_tensors())


def test_without_a_config_the_heads_are_asked_for(tmp_path):
    path = write_model(tmp_path)
    (tmp_path / "config.json").unlink()
    assert "nothing says n_head, the number of heads" in refusal(path, numgpt.load)
    assert numgpt.load(path, n_head=2).config.n_inner == 10


# ---- several files


@pytest.mark.parametrize("prefix", ["tfgpt2lm_head_model/", "transformer/"])
def test_several_files_are_one_model(tmp_path, prefix):
    """A model that was built and not called has no name in those of its weights: then `transformer` itself is cut."""
    tensors = renamed(hub_tensors(), "" if prefix == "transformer/" else "transformer/")
    path = write_shards(tmp_path, tensors, prefix)
    assert_holds(tmp_path, hub_tensors())
    (tmp_path / "tf_model-00002-of-00002.h5").unlink()
    assert "shards are missing, expected in the same folder: tf_model-00002-of-00002.h5" in fault(path, numgpt.load)


def test_files_that_are_not_those_of_the_index_are_told(tmp_path):
    path = write_shards(tmp_path)
    name = "transformer/wte/embeddings:0"
    write_hdf5(tmp_path / "tf_model-00001-of-00002.h5", {name: np.zeros((11, 6), np.float32)})
    assert fault(path, numgpt.load).startswith("tensors are missing, expected: transformer/h_._0/ln_1/gamma:0 in tf_")
    write_hdf5(tmp_path / "tf_model-00002-of-00002.h5", {name: np.zeros((11, 6), np.float32)})
    said = f"{name}: is in tf_model-00001-of-00002.h5 and in tf_model-00002-of-00002.h5, expected in one of them"
    assert said in fault(path, numgpt.load)


# ---- what is no GPT-2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{NEW}ln_f/gamma:0": None}, "missing: ln_f.g"),
        ({f"{NEW}h_._0/attn/extra:0": np.zeros(3)}, "left over: h.0.attn.extra"),
        ({"lm_head/kernel:0": np.zeros((6, 11))}, "left over: lm_head.kernel"),
        ({f"{NEW}wpe/embeddings:0": np.zeros((7, 5))}, "wpe: shape (7, 5), expected (7, 6)"),
        ({f"{NEW}h_._0/attn/c_attn/bias:0": np.zeros((2, 9))}, "h.0.attn.c_attn.b: shape (2, 9), expected (18,)"),
        ({f"{NEW}wte/weight:0": np.zeros((11, 6))}, "is there twice as wte.weight, expected it once"),
        ({f"{NEW}ln_f/beta:0": np.zeros(6, int)}, "ln_f.b: dtype I64, expected one of F16"),
    ],
)
def test_tensors_that_are_not_those_of_the_model_are_told(tmp_path, changes, said):
    assert said in refusal(write_model(tmp_path, {**renamed(hub_tensors()), **changes}), numgpt.load)


def test_the_weights_of_another_model_are_refused_by_what_they_are(tmp_path):
    path = write_model(tmp_path, {"bert/tf_bert_model/bert/embeddings/weight:0": np.zeros((2, 2)), "x": np.zeros(1)})
    said = "holds bert/tf_bert_model/bert/embeddings/weight:0, x, expected the tensors of a GPT-2: numgpt reads what"
    assert fault(path, numgpt.load).startswith(said)
    assert fault(write_model(tmp_path, {}), numgpt.load).startswith("holds no array, expected the tensors of a GPT-2")


def test_any_other_name_is_taken_where_there_is_one_file_alone(tmp_path):
    assert_holds(write_model(tmp_path, name="weights.h5").parent, hub_tensors())
    write_model(tmp_path, name="more.h5")
    assert "found more.h5, weights.h5, expected one file of weights" in refusal(tmp_path, numgpt.load)


# ---- damaged files


def misfit(path):
    """What is said of a file whose tensors are not those of the model."""
    try:
        opened = open_weights(look_at(path))
        match_params(opened.hub_tensors, opened.config, str(path))
    except CheckpointError as error:
        return str(error)
    return f"{path}: sound"


def check_damaged(tmp_path, raw):
    write_json(tmp_path / "config.json", CONFIG)
    path = write_bytes(tmp_path / "tf_model.h5", raw)
    read_or_refused(path, lambda path: open_weights(look_at(path)).hub_tensors)
    said = misfit(path)
    assert said.startswith(str(tmp_path))
    assert said.isprintable()
    assert len(said) < 4000


def damaged_names(tmp_path, pieces):
    write_json(tmp_path / "config.json", CONFIG)
    names = renamed(hub_tensors()) | {"/".join(piece): np.zeros((1, 2), np.float32) for piece in pieces}
    try:
        raw = hdf5(names)
    except (AttributeError, IndexError, TypeError):  # a name is that of an array and of a group
        return
    check_damaged(tmp_path, raw)


PIECE = st.sampled_from(
    ["transformer", "h_._0", "wte", "bias:0", ":0", "h_._" + "9" * 30, "\n", "a" * 3000, ".", "\u202e"]
)
PIECES = st.lists(st.lists(PIECE, min_size=1, max_size=5), min_size=1, max_size=3)


@given(pieces=PIECES)
@fuzz()
def test_whatever_the_names_are_only_a_checkpoint_error_comes_out(tmp_path, pieces):
    damaged_names(tmp_path, pieces)


with np.load(SAVED) as saved:
    SAMPLE = saved["whole/tf_model.h5"].tobytes()


EDITS = st.lists(  # where of the file, counted in 8 bytes; where of these; what comes there, in how many bytes
    st.tuples(
        st.integers(0, len(SAMPLE) // 8 - 1),
        st.sampled_from([0, 0, 4, 6]),
        st.sampled_from([0, 1, 255, 65535, 2**31, 2**32 - 1]) | st.integers(0, len(SAMPLE)),
        st.sampled_from([1, 2, 4]),
    ),
    min_size=1,
    max_size=4,
)


def edited(edits):
    """What Transformers saved, in which some numbers are others."""
    raw = bytearray(SAMPLE)
    for place, inner, value, width in edits:
        at = 8 * place + inner
        raw[at : at + width] = value.to_bytes(4, "little")[:width]
    return bytes(raw)


@given(edits=EDITS)
@fuzz()
def test_whatever_is_in_a_file_only_a_checkpoint_error_comes_out(tmp_path, edits):
    check_damaged(tmp_path, edited(edits))


@pytest.mark.thorough
@given(edits=EDITS)
@fuzz(2000)
def test_whatever_is_in_2000_files_only_a_checkpoint_error_comes_out(tmp_path, edits):
    check_damaged(tmp_path, edited(edits))

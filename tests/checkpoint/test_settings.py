"""Every config.json of a GPT-2 is read as Transformers reads it; whatever else is in one is refused by name."""

import hashlib
import json
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.checkpoints import hub_tensors

from numgpt.checkpoint.settings import check_given, config_from_json, config_to_json, read_settings, with_given
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError
from numgpt.ops import ACTIVATIONS


def message(values, **kwargs):
    with pytest.raises(CheckpointError) as caught:
        config_from_json(values, **kwargs)
    what, remedy = str(caught.value).rsplit(": ", 1)
    assert remedy in ("damaged, or not of a GPT-2?", "numgpt runs GPT-2 and no other model")
    return what


# --- the released models


def released(n_embd, n_head, n_layer, **more):
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": n_embd,
        "n_head": n_head,
        "n_layer": n_layer,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
        **more,
    }


# The sha256 is that of the file on the Hub: each dict above is the real file, to the byte.
RELEASED = {
    "gpt2": (
        released(768, 12, 12),
        "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
        Config(50257, 1024, 768, 12, 12),
    ),
    "gpt2-medium": (
        released(1024, 16, 24, n_special=0, predict_special_tokens=True),
        "ef1a44d889ad1a0acc7731c78134f1b87d2d222f110e97dd10fd4117331caf22",
        Config(50257, 1024, 1024, 16, 24),
    ),
    "gpt2-large": (
        released(1280, 20, 36),
        "7fccdcfd6622055342a734c663ee0b61ff4fd697f42467595df0bf4448c8c170",
        Config(50257, 1024, 1280, 20, 36),
    ),
    "gpt2-xl": (
        released(1600, 25, 48, output_past=True),
        "be48115d52314bc27327e160bf10197760db02ea689d10adb24db4102edf7a8a",
        Config(50257, 1024, 1600, 25, 48),
    ),
    "distilgpt2": (
        released(768, 12, 6, _num_labels=1, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0}),
        "4ec5947c1d59fee6212cdf3b0ec1a53eac02092554c5ff0a733488cbd2c64f3a",
        Config(50257, 1024, 768, 12, 6),
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_config_of_a_released_model_gives_its_sizes_and_the_defaults(name):
    values, sha256, expected = RELEASED[name]
    text = json.dumps(values, indent=2, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == sha256
    assert config_from_json(json.loads(text)) == expected


def test_an_empty_config_is_that_of_the_124m_model():
    assert config_from_json({}) == Config()


@pytest.mark.parametrize(("size", "sizes"), [("124M", (768, 12, 12)), ("1558M", (1600, 25, 48))])
def test_hparams_of_openai_is_read_too(size, sizes):
    n_embd, n_head, n_layer = sizes
    text = (
        f'{{\n  "n_vocab": 50257,\n  "n_ctx": 1024,\n  "n_embd": {n_embd},\n  "n_head": {n_head},\n'
        f'  "n_layer": {n_layer}\n}}\n'
    )
    if size == "124M":
        sha256 = "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"
        assert hashlib.sha256(text.encode()).hexdigest() == sha256
    assert config_from_json(json.loads(text)) == Config(50257, 1024, n_embd, n_head, n_layer)


def test_a_save_of_transformers_5_is_read():
    # Written by transformers 5.23: no n_ctx, n_inner null, dtype for torch_dtype.
    values = {
        "activation_function": "gelu_new",
        "add_cross_attention": False,
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 10,
        "dtype": "float32",
        "embd_pdrop": 0.1,
        "eos_token_id": 10,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_embd": 6,
        "n_head": 2,
        "n_inner": None,
        "n_layer": 3,
        "n_positions": 7,
        "pad_token_id": None,
        "reorder_and_upcast_attn": False,
        "resid_pdrop": 0.1,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "tie_word_embeddings": True,
        "transformers_version": "5.23.0",
        "use_cache": True,
        "vocab_size": 11,
    }
    config = config_from_json(values)
    assert config == Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=3, eos_token_id=10)
    assert config.mlp_width == 24


def test_a_cerebras_like_config_keeps_its_erf_gelu_its_mlp_and_its_context():
    values = released(
        768, 12, 10, activation_function="gelu", n_inner=3072, n_positions=2048, n_ctx=2048, scale_attn_weights=True
    )
    config = config_from_json(values)
    assert config == Config(n_embd=768, n_head=12, n_layer=10, n_ctx=2048, n_inner=3072, activation_function="gelu")


def test_the_scaling_by_layer_of_stanford_is_kept():
    values = released(768, 12, 12, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True)
    assert config_from_json(values) == Config(scale_attn_by_inverse_layer_idx=True)


def test_the_end_of_text_and_the_context_of_rugpt3_are_kept():
    values = released(
        768, 12, 12, bos_token_id=1, eos_token_id=2, pad_token_id=0, n_ctx=2048, n_positions=2048, n_inner=None
    )
    assert config_from_json(values) == Config(n_ctx=2048, bos_token_id=1, eos_token_id=2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("tie_word_embeddings", False),
        ("layer_norm_epsilon", 1e-6),
        ("n_inner", 100),
    ],
)
def test_each_switch_is_read(key, value):
    assert config_from_json({key: value}) == Config()._replace(**{key: value})


@pytest.mark.parametrize("key", [*Config._fields[5:11], "vocab_size", "n_ctx", "n_positions", "n_embd", "hidden_size"])
def test_null_stands_for_the_default(key):
    assert config_from_json({key: None}) == Config()


def test_what_changes_nothing_is_passed_over():
    values = {"attn_pdrop": "much", "task_specific_params": [1], "n_tokens": 3, "use_cache": 7, "": None, "wte": {}}
    assert config_from_json(values) == Config()


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu", "swish", "tanh"])
def test_the_activations_that_transformers_knows_and_gpt2s_use_are_known(name):
    assert config_from_json({"activation_function": name}).activation_function == name


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel"])
def test_the_architectures_of_gpt2_are_accepted(architecture):
    assert config_from_json({"architectures": [architecture]}) == Config()


@pytest.mark.parametrize(
    "values", [{"architectures": None}, {"architectures": []}, {"add_cross_attention": False}, {"pruned_heads": {}}]
)
def test_what_is_refused_may_be_there_and_empty(values):
    assert config_from_json(values) == Config()


# --- sizes under several names


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("n_vocab", "n_vocab"),
        ("vocab_size", "n_vocab"),
        ("n_ctx", "n_ctx"),
        ("n_positions", "n_ctx"),
        ("max_position_embeddings", "n_ctx"),
        ("n_embd", "n_embd"),
        ("hidden_size", "n_embd"),
        ("n_head", "n_head"),
        ("num_attention_heads", "n_head"),
        ("n_layer", "n_layer"),
        ("num_hidden_layers", "n_layer"),
    ],
)
def test_each_name_of_a_size_gives_it(key, field):
    value = 60_000 if field == "n_vocab" else 96
    assert config_from_json({key: value}) == Config()._replace(**{field: value})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("n_vocab", "vocab_size"),
        ("n_embd", "hidden_size"),
        ("n_head", "num_attention_heads"),
        ("n_layer", "num_hidden_layers"),
    ],
)
def test_two_names_of_a_size_that_disagree_are_refused(one, other):
    assert message({other: 96, one: 48}) == f"config.json: {one} or {other} is [48, 96], expected the same"
    assert config_from_json({other: 48, one: 48, "eos_token_id": None}) == config_from_json(
        {one: 48, "eos_token_id": None}
    )


def test_n_positions_counts_where_n_ctx_says_something_else():
    assert config_from_json({"n_ctx": 512, "n_positions": 2048}).n_ctx == 2048
    assert config_from_json({"n_ctx": 512, "max_position_embeddings": 2048}).n_ctx == 2048
    assert config_from_json({"n_ctx": 512, "n_positions": None}).n_ctx == 512


# --- the end of text


@pytest.mark.parametrize(
    ("values", "eos"),
    [
        ({}, 50256),
        ({"eos_token_id": None}, None),
        ({"eos_token_id": 0}, 0),
        ({"eos_token_id": [2]}, 2),
        ({"vocab_size": 100, "eos_token_id": 99}, 99),
        ({"vocab_size": 100, "eos_token_id": 100}, None),
        ({"vocab_size": 100}, None),
        ({"eos_token_id": -1}, None),
    ],
)
def test_an_end_of_text_is_one_id_of_the_vocabulary_or_none(values, eos):
    config = config_from_json(values)
    assert (config.eos_token_id, config.more_eos_ids) == (eos, ())


@pytest.mark.parametrize(
    ("values", "eos", "more"),
    [
        ({"eos_token_id": []}, None, ()),
        ({"eos_token_id": [2, 1]}, 2, (1,)),
        ({"eos_token_id": [2, 50257, 2, 7, -1, 1]}, 2, (7, 1)),  # each once, and none that can't occur
    ],
)
def test_several_ids_may_end_a_text(values, eos, more):
    config = config_from_json(values)
    assert (config.eos_token_id, config.more_eos_ids) == (eos, more)
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({}, 50256),
        ({"bos_token_id": 1}, 1),
        ({"bos_token_id": None, "eos_token_id": 2}, 2),
        ({"bos_token_id": 50257, "eos_token_id": 2}, 2),
        ({"bos_token_id": None, "eos_token_id": None}, None),
    ],
)
def test_a_text_begins_with_one_id_of_the_vocabulary_or_none(values, start):
    config = config_from_json(values)
    assert config.start_id == start
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize("bos", [[1], "2", True, 2.0])
def test_another_beginning_is_refused(bos):
    assert message({"bos_token_id": bos}) == f"config.json: bos_token_id is {bos!r}, expected one id, or null"


@pytest.mark.parametrize("eos", ["2", 2.0, True, [True], {"id": 2}, [None, None], [1, "2"]])
def test_another_end_of_text_is_refused(eos):
    expected = f"config.json: eos_token_id is {eos!r}, expected one id, a list of ids, or null"
    assert message({"eos_token_id": eos}) == expected


# --- generation_config.json


@pytest.mark.parametrize(
    ("generation", "bos", "eos", "more"),
    [
        (None, 3, 4, ()),  # no such file: config.json
        ({"eos_token_id": [5, 6], "bos_token_id": 7}, 7, 5, (6,)),
        ({"eos_token_id": 5, "temperature": 0.5}, None, 5, ()),
        ({"eos_token_id": None, "bos_token_id": 3}, 3, None, ()),
        ({}, None, None, ()),  # it is there and says nothing: neither does Transformers look further
        ({"eos_token_id": 50257}, None, None, ()),
    ],
)
def test_generation_config_alone_says_what_begins_and_ends_a_text(tmp_path, generation, bos, eos, more):
    (tmp_path / "config.json").write_text('{"bos_token_id": 3, "eos_token_id": 4}')
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    config, values = read_settings(tmp_path)
    assert config == Config(bos_token_id=bos, eos_token_id=eos, more_eos_ids=more)
    assert values == {"bos_token_id": 3, "eos_token_id": 4}


@pytest.mark.parametrize(
    "raw", [b"", b"[1]", b'{"eos_token_id": "x"}', b"\xff", b'{"eos_token_id": [[1]]}', b"[" * 9999]
)
def test_a_damaged_generation_config_is_named(tmp_path, raw):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"generation_config\.json: .*expected"):
        read_settings(tmp_path)


# --- what is refused


@pytest.mark.parametrize("kind", ["imagegpt", "gptj", "gpt_neo", "llama", "GPT2", "", 2, ["gpt2"]])
def test_another_model_type_is_refused(kind):
    expected = f"config.json: model_type is {kind!r}, expected 'gpt2'"
    assert message(released(768, 12, 12, model_type=kind)) == expected


@pytest.mark.parametrize(
    "architectures", [["ImageGPT"], ["BertLMHeadModel"], ["GPT2LMHeadModel", "BertModel"], "GPT2LMHeadModel", 7, [None]]
)
def test_another_architecture_is_refused(architectures):
    expected = f"config.json: architectures is {architectures!r}, expected ['GPT2LMHeadModel']"
    assert message({"architectures": architectures}) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1, 2]}),
    ],
)
def test_what_numgpt_does_not_compute_is_refused(key, value):
    expected = f"config.json: {key} is {value!r}, which numgpt does not compute"
    assert message({key: value}) == expected


@pytest.mark.parametrize("name", ["quick_gelu", "gelu_10", "GELU", "", "gelu_new "])
def test_an_unknown_activation_is_refused_with_those_that_are_known(name):
    known = "gelu_new, gelu_pytorch_tanh, gelu, relu, silu, swish, tanh"
    assert (
        message({"activation_function": name})
        == f"config.json: activation_function is {name!r}, expected one of {known}"
    )
    assert known == ", ".join(ACTIVATIONS)


@pytest.mark.parametrize(
    "key", ["vocab_size", "n_ctx", "n_positions", "n_embd", "n_head", "n_layer", "n_inner", "n_vocab"]
)
@pytest.mark.parametrize("value", [True, 768.0, "768", [768], {}, math.nan])
def test_a_size_of_another_type_is_refused(key, value):
    assert message({key: value}) == f"config.json: {key} is {value!r}, expected an integer"


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("vocab_size", "n_vocab"),
        ("n_positions", "n_ctx"),
        ("hidden_size", "n_embd"),
        ("n_head", "n_head"),
        ("n_layer", "n_layer"),
        ("n_inner", "n_inner"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, -(10**30)])
def test_a_size_below_one_is_refused(key, field, value):
    assert message({key: value}) == f"config.json: {field} is {value}, expected 1 or more"


@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_inner"])
def test_a_huge_size_is_only_a_number_here(key):
    config = config_from_json({"n_head": 1, key: 10**30})
    assert 10**30 in config


def test_a_width_that_does_not_divide_into_heads_is_refused():
    assert message({"n_embd": 768, "n_head": 5}) == ("config.json: n_embd is 768, expected a multiple of n_head, 5")


@pytest.mark.parametrize("key", ["scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"])
@pytest.mark.parametrize("value", [0, 1, "true", [True], 1.0])
def test_a_switch_of_another_type_is_refused(key, value):
    assert message({key: value}) == f"config.json: {key} is {value!r}, expected true or false"


@pytest.mark.parametrize("value", ["1e-5", True, [1e-5]])
def test_an_epsilon_of_another_type_is_refused(value):
    assert (
        message({"layer_norm_epsilon": value})
        == f"config.json: layer_norm_epsilon is {value!r}, expected a number from 0 to 1"
    )


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "-1e-5", "1e999"])
def test_an_epsilon_that_is_no_size_is_refused(text):
    value = json.loads(text)
    expected = f"config.json: layer_norm_epsilon is {value!r}, expected a number from 0 to 1"
    assert message({"layer_norm_epsilon": value}) == expected


def test_an_epsilon_too_large_for_a_float_is_refused():
    assert message({"layer_norm_epsilon": 10**400}).startswith("config.json: layer_norm_epsilon is ")


def test_an_epsilon_may_be_zero_and_written_as_an_integer():
    eps = config_from_json({"layer_norm_epsilon": 0}).layer_norm_epsilon
    assert eps == 0
    assert type(eps) is float
    assert config_from_json({"layer_norm_epsilon": 1}).layer_norm_epsilon == 1


@pytest.mark.parametrize("value", [3, [1], ["gelu_new"], True])
def test_an_activation_of_another_type_is_refused(value):
    assert (
        message({"activation_function": value}) == f"config.json: activation_function is {value!r}, expected a string"
    )


@pytest.mark.parametrize("values", [[], "gpt2", None, 7, [{"n_embd": 768}]])
def test_what_is_no_object_is_refused(values):
    assert message(values) == f"config.json: the content is {values!r}, expected a JSON object"


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"model_type": "x"},
        {"architectures": 7},
        {"pruned_heads": 1},
        {"n_embd": 1.5},
        {"n_embd": 0},
        {"n_embd": 7, "hidden_size": 8},
        {"n_embd": 7},
        {"layer_norm_epsilon": -1},
        {"activation_function": "x"},
        {"eos_token_id": "x"},
        {"tie_word_embeddings": 1},
    ],
)
def test_each_message_begins_with_the_name_of_the_file(values):
    assert message(values, source="here/config.json").startswith("here/config.json: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "x" * 999),
        ("architectures", ["x" * 999]),
        ("pruned_heads", "x" * 999),
        ("n_embd", "x" * 999),
        ("eos_token_id", ["x"] * 999),
    ],
)
def test_a_long_value_is_cut_in_the_message(key, value):
    assert len(message({key: value})) < 200


# --- anything at all

KEYS = [
    "n_vocab",
    "vocab_size",
    "n_ctx",
    "n_positions",
    "max_position_embeddings",
    "n_embd",
    "hidden_size",
    "n_head",
    "num_attention_heads",
    "n_layer",
    "num_hidden_layers",
    "n_inner",
    "layer_norm_epsilon",
    "activation_function",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "n_tokens",
    "model_type",
    "architectures",
    "add_cross_attention",
    "is_encoder_decoder",
    "pruned_heads",
    "quantization_config",
]
NUMBERS = st.integers(-(10**300), 10**300) | st.integers(-1, 9) | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["gpt2", "gelu"])
JSON = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
SOUND = st.fixed_dictionaries(
    {},
    optional={
        "vocab_size": st.integers(1, 10**30),
        "n_positions": st.integers(1, 9),
        "n_embd": st.sampled_from([4, 6, 8]),
        "n_head": st.sampled_from([1, 2]),
        "eos_token_id": st.integers(-1, 9),
        "model_type": st.just("gpt2"),
    },
)


@given(SOUND, st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), JSON, max_size=2))
@example({"layer_norm_epsilon": 10**300, "n_embd": 10**300, "n_head": 10**300}, {})
def test_any_object_gives_a_config_that_is_sound_or_one_error(sound, anything):
    try:
        config = config_from_json(sound | anything)
    except CheckpointError:
        pattern = r"config\.json: .*(expected|does not compute)"
        assert re.match(pattern, message(sound | anything), re.DOTALL)
        return
    assert [type(x) for x in config[:5]] == [int] * 5
    assert min(config[:5]) >= 1
    assert config.n_embd == config.n_head * config.head_size
    assert type(config.mlp_width) is int
    assert config.mlp_width >= 1
    assert type(config.layer_norm_epsilon) is float
    assert 0 <= config.layer_norm_epsilon < math.inf
    assert config.activation_function in ACTIVATIONS
    assert [type(x) for x in config[8:11]] == [bool] * 3
    assert config.eos_token_id is None or 0 <= config.eos_token_id < config.n_vocab
    assert config.n_tokens is None


@given(JSON.filter(lambda value: not isinstance(value, dict)))
def test_anything_but_an_object_is_one_error(value):
    assert re.fullmatch(r"config\.json: the content is .*, expected a JSON object", message(value), re.DOTALL)


# --- what the tensors, the file and the caller say


def shapes(**sizes):
    """Tensors of a small GPT-2, of which no value is read."""
    return {name: LazyTensor("F32", x.shape, None) for name, x in hub_tensors(**sizes).items()}


def test_sizes_that_no_file_says_come_from_the_shapes():
    config = config_from_json({"n_head": 3, "layers": 40}, tensors=shapes())
    assert config == Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=3, n_layer=2, n_inner=10, eos_token_id=None)


@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_ctx", "n_inner"])
@pytest.mark.parametrize("value", [1, 500])
def test_the_rows_and_the_width_of_the_mlp_are_those_of_the_tensors(key, value):
    config = config_from_json({"n_head": 3, key: value}, tensors=shapes())
    assert (config.n_vocab, config.n_ctx, config.n_inner) == (11, 7, 10)


@pytest.mark.parametrize(("key", "value"), [("n_embd", 12), ("n_layer", 1), ("n_layer", 3), ("hidden_size", 12)])
def test_a_width_and_layers_that_a_file_says_are_left_for_the_tensors_to_contradict(key, value):
    assert value in config_from_json({"n_head": 3, key: value}, tensors=shapes())


def test_the_end_of_text_is_held_against_the_rows_that_there_are():
    assert config_from_json({"n_head": 1, "vocab_size": 20, "eos_token_id": 15}, tensors=shapes()).eos_token_id is None
    assert config_from_json({"n_head": 1, "vocab_size": 5, "eos_token_id": 10}, tensors=shapes()).eos_token_id == 10


@pytest.mark.parametrize("n_inner", [None, 24])
def test_an_mlp_four_times_as_wide_stays_as_the_file_says_it(n_inner):
    config = config_from_json({"n_head": 1, "n_inner": n_inner}, tensors=shapes(n_inner=24))
    assert (config.n_inner, config.mlp_width) == (n_inner, 24)


HEADS = ["n_head", "num_attention_heads", "n_heads", "num_heads", "n_attention_heads", "attention_heads", "heads"]


@pytest.mark.parametrize("key", HEADS)
def test_the_heads_may_have_any_of_their_names(key):
    assert config_from_json({key: 3}, tensors=shapes()).n_head == 3


@pytest.mark.parametrize("values", [{}, {"layers": 2}, {"n_embd": 6, "n_layer": 2}])
def test_the_heads_are_asked_for_and_not_guessed(values):
    with pytest.raises(CheckpointError) as caught:
        config_from_json(values, "c", shapes())
    assert str(caught.value) == (
        "c: nothing says n_head, the number of heads, which no tensor tells: add --set n_head=N to the command "
        "(in Python n_head=N), where N divides the width, 6"
    )
    assert config_from_json(values, "c", shapes(), {"n_head": 3}).n_head == 3


def test_a_config_of_the_hub_that_leaves_the_heads_out_means_twelve():
    values = {"model_type": "gpt2", "n_embd": 24}
    assert config_from_json(values, tensors=shapes(n_embd=24)).n_head == 12


@pytest.mark.parametrize("key", ["activation_function", "activation", "hidden_act"])
def test_the_activation_may_have_any_of_its_names(key):
    assert config_from_json({key: "relu"}, activation="gelu").activation_function == "relu"
    assert message({key: "mish"}).startswith(f"config.json: {key} is 'mish', expected one of ")


@pytest.mark.parametrize("key", ["layer_norm_epsilon", "layer_norm_eps", "ln_eps"])
def test_the_epsilon_may_have_any_of_its_names(key):
    assert config_from_json({key: 1e-6}).layer_norm_epsilon == 1e-6
    assert message({key: 2}) == f"config.json: {key} is 2, expected a number from 0 to 1"


def test_where_nobody_says_it_the_activation_is_that_of_the_layout():
    assert config_from_json({}, activation="gelu").activation_function == "gelu"
    assert config_from_json({"model_type": "gpt2"}, activation="gelu").activation_function == "gelu_new"


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("gelu_python", "gelu"),
        ("gelu_fast", "gelu_new"),
        ("gelu_accurate", "gelu_new"),
        ("gelu_python_tanh", "gelu_new"),
    ],
)
def test_names_that_mean_the_same_are_read_as_the_same(name, same):
    assert config_from_json({"activation_function": name}).activation_function == same
    assert check_given({"activation_function": name}) == {"activation_function": same}


def test_what_the_caller_says_counts_before_what_the_file_says():
    given = {"n_head": 3, "activation_function": "relu", "layer_norm_epsilon": 0.5, "eos_token_id": 4}
    given |= {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}
    file = {"n_head": 2, "num_heads": 2, "activation_function": "gelu", "layer_norm_epsilon": 0.1, "eos_token_id": 5}
    config = config_from_json(file, tensors=shapes(), given=given)
    assert {name: getattr(config, name) for name in given} == given
    assert with_given(config_from_json(file, tensors=shapes()), given, "x") == config


@pytest.mark.parametrize(
    "given",
    [
        {"n_embd": 6},
        {"n_head": 2.0},
        {"n_head": True},
        {"n_head": 0},
        {"activation_function": "mish"},
        {"layer_norm_epsilon": math.nan},
        {"layer_norm_epsilon": "1"},
        {"scale_attn_weights": 1},
        {"heads": 2},
    ],
)
def test_what_the_caller_can_not_say_is_refused(given):
    with pytest.raises(OptionError, match=f"^{next(iter(given))} is .*, expected "):
        check_given(given)


@pytest.mark.parametrize("given", [{"n_head": 4}, {"eos_token_id": 11}, {"eos_token_id": -1}])
def test_what_does_not_fit_the_sizes_is_refused(given):
    with pytest.raises(CheckpointError, match=f"^x: {next(iter(given))} is "):
        with_given(config_from_json({"n_head": 2}, tensors=shapes()), given, "x")

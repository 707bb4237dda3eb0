"""Parameters are found in files of every naming; a file that is not exactly a GPT-2 is refused before it is read."""

import tracemalloc

import numpy as np
import pytest
from support.checkpoints import hub_tensors, layouts, masked_bias, masks, prefixed
from support.readers import Spy

from numgpt.checkpoint.aliases import find_own
from numgpt.checkpoint.memory import read_params
from numgpt.checkpoint.names import Misfit, hub_name, match_params, sizes_of
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.params import check_params, leaves, param_shapes

ALONE = "it may be the file of a vocabulary alone"
SHARD = "if it is one shard of several, give their .index.json"
TINY = Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, n_inner=10)
UNTIED = TINY._replace(tie_word_embeddings=False)


def match(tensors, config, source):
    """Find the tensors of the model by whatever names they have, and match them."""
    return match_params(find_own(tensors, source).tensors, config, source)


def load(tensors, config=TINY, dtype=None):
    given, config = match(Spy(tensors).tensors, config, "x")
    return read_params(given, config, dtype), config


def message(tensors, config=TINY):
    spy = Spy(tensors)
    with pytest.raises(CheckpointError) as caught:
        match(spy.tensors, config, "a/x.safetensors")
    assert spy.reads == []
    return str(caught.value)


def unfit(tensors, config=TINY):
    text = message(tensors, config)
    prefix = "a/x.safetensors does not fit its configuration: "
    assert text.startswith(prefix)
    return text.removeprefix(prefix)


def expect(params, tensors):
    """Check a tree against tensors under the Hub's names: written out, and not by the table that is tested."""
    h = params["h"]
    for i in range(2):
        pairs = {
            "ln_1.weight": h[i]["ln_1"]["g"],
            "ln_1.bias": h[i]["ln_1"]["b"],
            "attn.c_attn.weight": h[i]["attn"]["c_attn"]["w"],
            "attn.c_attn.bias": h[i]["attn"]["c_attn"]["b"],
            "attn.c_proj.weight": h[i]["attn"]["c_proj"]["w"],
            "attn.c_proj.bias": h[i]["attn"]["c_proj"]["b"],
            "ln_2.weight": h[i]["ln_2"]["g"],
            "ln_2.bias": h[i]["ln_2"]["b"],
            "mlp.c_fc.weight": h[i]["mlp"]["c_fc"]["w"],
            "mlp.c_fc.bias": h[i]["mlp"]["c_fc"]["b"],
            "mlp.c_proj.weight": h[i]["mlp"]["c_proj"]["w"],
            "mlp.c_proj.bias": h[i]["mlp"]["c_proj"]["b"],
        }
        for name, x in pairs.items():
            np.testing.assert_array_equal(x, tensors[f"h.{i}.{name}"], strict=True)
    assert len(h) == 2
    np.testing.assert_array_equal(params["wte"], tensors["wte.weight"], strict=True)
    np.testing.assert_array_equal(params["wpe"], tensors["wpe.weight"], strict=True)
    np.testing.assert_array_equal(params["ln_f"]["g"], tensors["ln_f.weight"], strict=True)
    np.testing.assert_array_equal(params["ln_f"]["b"], tensors["ln_f.bias"], strict=True)


# --- layouts

LAYOUTS = layouts(hub_tensors())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_tree(layout):
    params, config = load(LAYOUTS[layout])
    expect(params, hub_tensors())
    assert list(params) == ["wte", "wpe", "h", "ln_f"]
    assert config == TINY
    check_params(params, config)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_the_file_does_not_matter(layout):
    params, _ = load(dict(reversed(LAYOUTS[layout].items())))
    expect(params, hub_tensors())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_parameter_is_read_once_and_a_mask_never(layout):
    spy = Spy(LAYOUTS[layout])
    given, config = match(spy.tensors, TINY, "x")
    compared = list(spy.reads)
    heads = [name for name in spy.tensors if "lm_head" in name]
    wte = [name for name in spy.tensors if name.endswith("wte.weight")]
    assert sorted(compared) == (sorted(heads + wte) if heads else [])

    spy.reads.clear()
    read_params(given, config)
    tables = set(heads + wte)  # one of the two is read, no matter which
    masked = {name for name in spy.tensors if name.endswith((".attn.bias", ".attn.masked_bias"))}
    assert len(spy.reads) == len(set(spy.reads)) == 28
    assert set(spy.reads) - tables == set(spy.tensors) - tables - masked


def test_a_mask_is_no_bias_even_where_it_has_the_shape_of_one():
    tensors = hub_tensors()
    extra = {"h.0.attn.bias": np.full(18, 9, np.float32), "h.1.attn.masked_bias": np.full(18, 9, np.float32)}
    params, _ = load(tensors | extra)
    np.testing.assert_array_equal(params["h"][0]["attn"]["c_attn"]["b"], tensors["h.0.attn.c_attn.bias"])


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_, np.float64, np.int64])
def test_masks_of_any_dtype_are_passed_over(dtype):
    params, config = load(hub_tensors() | masks(dtype=dtype) | masked_bias())
    assert config == TINY
    assert params["wte"].dtype == np.float32


def test_hub_names_are_those_of_the_file():
    shapes = param_shapes(UNTIED)
    expected = [*(name for name in hub_tensors()), "lm_head.weight"]
    assert [hub_name(path) for path, _ in leaves(shapes)] == expected


@pytest.mark.parametrize("name", ["x.wte.weight", "transformer.h.0.attn.c_attn.transformer.weight", "model.wte.weight"])
def test_only_a_known_prefix_is_taken_off_and_only_at_the_front(name):
    assert unfit(hub_tensors() | {name: np.zeros(1, np.float32)}) == f"left over: {name.removeprefix('transformer.')}"


def test_a_dot_in_a_known_prefix_is_a_dot():
    assert unfit(hub_tensors() | {"moduleXwte.weight": np.zeros(1, np.float32)}) == "left over: moduleXwte.weight"


# --- the output head


def test_a_stored_head_equal_to_the_embedding_is_dropped():
    tensors = hub_tensors()
    params, config = load(tensors | {"lm_head.weight": tensors["wte.weight"].copy()})
    assert "lm_head" not in params
    assert config.tie_word_embeddings is True


@pytest.mark.parametrize("name", ["lm_head.weight", "lm_head.decoder.weight", "module.lm_head.weight"])
def test_a_head_that_differs_is_kept_whatever_the_config_says(name):
    tensors = hub_tensors()
    head = tensors["wte.weight"].copy()
    head[-1, -1] += 1 / 64
    params, config = load(tensors | {name: head})
    np.testing.assert_array_equal(params["lm_head"], head, strict=True)
    assert config == UNTIED
    expect(params, tensors)
    check_params(params, config)


def test_an_untied_head_is_kept_even_if_it_equals_the_embedding():
    tensors = hub_tensors()
    spy = Spy(tensors | {"lm_head.weight": tensors["wte.weight"].copy()})
    given, config = match(spy.tensors, UNTIED, "x")
    assert spy.reads == []
    params = read_params(given, config)
    np.testing.assert_array_equal(params["lm_head"], params["wte"])
    assert not np.shares_memory(params["lm_head"], params["wte"])
    assert config == UNTIED


def test_an_untied_head_that_is_not_there_is_missed():
    assert unfit(hub_tensors(), UNTIED) == "missing: lm_head"


def test_a_head_of_another_shape_is_refused_unread():
    head = np.zeros((12, 6), np.float32)
    expected = "lm_head: shape (12, 6), expected (11, 6)"
    assert unfit(hub_tensors() | {"lm_head.weight": head}, UNTIED) == expected
    assert unfit(hub_tensors() | {"lm_head.weight": head}, TINY) == expected


def test_a_bias_of_the_head_is_left_over():
    assert unfit(hub_tensors() | {"lm_head.bias": np.zeros(11, np.float32)}) == "left over: lm_head.bias"


def test_a_tied_model_saved_with_its_head_alone_is_read():
    # What safetensors.torch.save_model writes, and Transformers reads: of the two tied names the first in the alphabet.
    tensors = hub_tensors()
    stored = {"lm_head.weight" if name == "wte.weight" else f"transformer.{name}": x for name, x in tensors.items()}
    spy = Spy(stored)
    given, config = match(spy.tensors, TINY, "x")
    assert spy.reads == []
    expect(read_params(given, config), tensors)
    assert config == TINY


def test_an_untied_model_with_its_head_alone_misses_the_embedding():
    tensors = hub_tensors()
    tensors["lm_head.weight"] = tensors.pop("wte.weight")
    assert unfit(tensors, UNTIED) == "missing: wte"


def test_a_model_with_neither_embedding_nor_head_misses_the_embedding():
    tensors = hub_tensors()
    del tensors["wte.weight"]
    assert unfit(tensors) == "missing: wte"


# --- what does not fit


@pytest.mark.parametrize(
    "name",
    [
        "token_type_embeddings.weight",
        "prompt_encoder.weight",
        "lm_head.0.weight",
        "h.0.crossattention.c_attn.weight",
        "h.0.ln_cross_attn.weight",
        "h.0.attn.c_attn.lora_A.weight",
        "h.2.ln_1.weight",
        "h.0.attn.c_attn.weight.scales",
        "h.0.mlp.bias",
        "h.0.attn.biases",
        "attn.bias",
        "h.x.attn.bias",
        "wte.bias",
    ],
)
def test_a_tensor_that_gpt2_does_not_have_is_left_over(name):
    assert unfit(hub_tensors() | {name: np.zeros(3, np.float32)}) == f"left over: {name}"


def test_the_layers_that_a_config_does_not_count_are_left_over():
    text = unfit(hub_tensors(n_layer=3))
    shown = "h.2.ln_1.weight, h.2.ln_1.bias, h.2.attn.c_attn.weight"
    assert text == f"left over: 12 tensors, such as {shown}: `numgpt inspect --json` lists them all"


def test_all_that_is_missing_is_named():
    tensors = hub_tensors()
    del tensors["wpe.weight"], tensors["h.1.attn.c_attn.bias"]
    assert unfit(tensors) == "missing: wpe, h.1.attn.c_attn.b"


def test_the_layers_that_a_config_counts_in_vain_are_missing():
    text = unfit(hub_tensors(), TINY._replace(n_layer=3))
    shown = "h.2.ln_1.g, h.2.ln_1.b, h.2.attn.c_attn.w"
    assert text == f"missing: 12 tensors, such as {shown}: `numgpt inspect --json` lists them all"


def test_an_error_about_many_tensors_is_short_and_has_all_of_them():
    tensors = hub_tensors(n_layer=40)
    with pytest.raises(Misfit) as caught:
        match(Spy(tensors).tensors, TINY._replace(n_layer=40, n_embd=8), "x")
    assert len(str(caught.value)) < 400
    assert str(caught.value).startswith("x does not fit its configuration: 444 tensors of another shape, such as wte: ")
    every = caught.value.faults["of another shape"]
    assert [phrase.partition(":")[0] for phrase in every[:3]] == ["wte", "wpe", "h.0.ln_1.g"]
    assert len(every) == 4 + 11 * 40  # all but the bias of c_fc, of width n_inner


def test_an_empty_file_is_said_to_be_empty():
    assert message({}) == f"a/x.safetensors: n_layer is 2, but the file has 0 tensors in all: {SHARD}; {ALONE}"


def test_weights_of_nn_linear_look_transposed():
    tensors = hub_tensors()
    for name in ("h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight"):
        tensors[name] = tensors[name].T.copy()
    with pytest.raises(Misfit) as caught:
        match_params(Spy(tensors).tensors, TINY, "x")
    assert str(caught.value).removeprefix("x does not fit its configuration: ") == (
        "h.0.attn.c_attn.w: shape (18, 6), expected (6, 18): looks transposed, as nn.Linear stores it; "
        "h.1.mlp.c_fc.w: shape (10, 6), expected (6, 10): looks transposed, as nn.Linear stores it"
    )


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (TINY._replace(n_vocab=12), "wte: shape (11, 6), expected (12, 6)"),
        (TINY._replace(n_ctx=8), "wpe: shape (7, 6), expected (8, 6)"),
        (TINY._replace(n_vocab=10**12), "wte: shape (11, 6), expected (1000000000000, 6)"),
    ],
)
def test_a_config_of_other_sizes_is_refused(config, fault):
    assert unfit(hub_tensors(), config) == fault


@pytest.mark.parametrize(
    ("dtype", "stored"), [(np.int64, "I64"), (np.uint8, "U8"), (np.bool_, "BOOL"), (np.int8, "I8")]
)
def test_a_parameter_of_integers_is_refused(dtype, stored):
    tensors = hub_tensors()
    tensors["h.1.mlp.c_fc.weight"] = tensors["h.1.mlp.c_fc.weight"].astype(dtype)
    assert unfit(tensors) == f"h.1.mlp.c_fc.w: dtype {stored}, expected one of F16, BF16, F32, F64"


def test_every_fault_is_said_at_once():
    tensors = hub_tensors() | {"extra.weight": np.zeros((2, 6), np.float32)}
    del tensors["ln_f.bias"]
    tensors["wpe.weight"] = tensors["wpe.weight"].T.copy().astype(np.int32)
    assert unfit(tensors) == (
        "missing: ln_f.b; "
        "wpe: shape (6, 7), expected (7, 6): looks transposed, as nn.Linear stores it; "
        "left over: extra.weight; "
        "wpe: dtype I32, expected one of F16, BF16, F32, F64"
    )


@pytest.mark.parametrize(("one", "other"), [("", "transformer."), ("transformer.", "module.transformer.")])
def test_a_tensor_under_two_prefixes_is_refused(one, other):
    tensors = prefixed(one, hub_tensors())
    tensors |= {f"{other}h.0.ln_1.bias": tensors[f"{one}h.0.ln_1.bias"]}
    assert message(tensors) == (
        f"a/x.safetensors: {one}h.0.ln_1.bias and {other}h.0.ln_1.bias are both h.0.ln_1.bias: "
        "which one counts? Save it without the other"
    )


def test_a_head_under_two_names_is_refused():
    wte = hub_tensors()["wte.weight"]
    text = message(hub_tensors() | {"lm_head.weight": wte, "lm_head.decoder.weight": wte})
    assert text.startswith("a/x.safetensors: lm_head.weight and lm_head.decoder.weight are both lm_head.weight")


def test_prefixes_may_be_mixed():
    tensors = {f"{'transformer.' if i % 2 else ''}{name}": x for i, (name, x) in enumerate(hub_tensors().items())}
    expect(load(tensors)[0], hub_tensors())


@pytest.mark.parametrize("path", ["wte", "ln_f.g", "h.0.attn.c_attn.w"])
def test_a_tensor_under_our_name_does_not_replace_one_under_the_hubs(path):
    tensors = hub_tensors()
    twice = message(tensors | {path: np.zeros_like(tensors[hub_name(path)])})
    assert f"{hub_name(path)} and {path} are both {hub_name(path)}" in twice


def test_a_name_from_a_file_can_not_write_to_the_terminal():
    assert message(hub_tensors() | {"\x1b[2J\n": np.zeros(3, np.float32)}).isprintable()


@pytest.mark.parametrize("change", [{"n_layer": 10**9}, {"n_layer": 10**30}, {"n_vocab": 10**12}, {"n_inner": 10**30}])
def test_a_config_that_claims_to_be_huge_costs_nothing(change):
    tensors = Spy(hub_tensors()).tensors
    config = TINY._replace(**change)
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        match(tensors, config, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    if "n_layer" in change:
        message = f"x: n_layer is {config.n_layer}, but the file has 28 tensors in all: {SHARD}"
        assert str(caught.value) == message


# --- dtypes of what is read


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        ("float32", None, "float32"),
        ("float16", None, "float32"),
        ("float64", None, "float64"),
        ("float32", "float64", "float64"),
        ("float16", "float64", "float64"),
        ("float64", "float32", "float32"),
    ],
)
def test_floats_stay_halves_are_widened_and_what_is_asked_for_is_given(stored, asked, expected):
    tensors = {name: x.astype(stored) for name, x in hub_tensors().items()}
    params, config = load(tensors, dtype=asked)
    assert {x.dtype.name for _, x in leaves(params)} == {expected}
    check_params(params, config)
    expect(params, {name: x.astype(expected) for name, x in hub_tensors().items()})


def test_one_float64_among_the_parameters_makes_all_of_them_float64():
    tensors = hub_tensors()
    tensors["ln_f.bias"] = tensors["ln_f.bias"].astype(np.float64)
    tensors["wte.weight"] = tensors["wte.weight"].astype(np.float16)
    params, _ = load(tensors)
    assert {x.dtype.name for _, x in leaves(params)} == {"float64"}


def test_a_float64_that_is_dropped_widens_nothing():
    tensors = hub_tensors()
    tensors |= masks(dtype=np.float64)
    params, _ = load(tensors)
    assert {x.dtype.name for _, x in leaves(params)} == {"float32"}


def test_where_a_head_is_stored_a_fault_elsewhere_reads_nothing_but_the_two_that_are_compared():
    tensors = hub_tensors()
    spy = Spy(tensors | {"lm_head.weight": tensors["wte.weight"], "extra.weight": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError):
        match(spy.tensors, TINY, "x")
    assert set(spy.reads) <= {"lm_head.weight", "wte.weight"}


# --- what the names and shapes say


def greek(tensors):
    """Layer norms with gamma and beta."""
    names = {"weight": "gamma", "bias": "beta"}
    return {f"{n.rpartition('.')[0]}.{names[n.rpartition('.')[2]]}" if "ln_" in n else n: x for n, x in tensors.items()}


def test_layer_norms_may_be_called_gamma_and_beta():
    tensors = greek(hub_tensors())
    assert {"h.1.ln_2.beta", "ln_f.gamma"} <= tensors.keys()
    expect(load(tensors)[0], hub_tensors())
    expect(load(prefixed("transformer.", tensors))[0], hub_tensors())


def test_gamma_beside_weight_is_there_twice():
    extra = {"ln_f.gamma": np.zeros(6, np.float32)}
    assert message(hub_tensors() | extra).startswith("a/x.safetensors: ln_f.weight and ln_f.gamma are both ln_f.weight")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_shapes_say_all_sizes_but_the_heads(layout):
    sizes = sizes_of(find_own(Spy(LAYOUTS[layout]).tensors, "x").tensors)
    assert sizes == {"n_vocab": 11, "n_embd": 6, "n_ctx": 7, "n_layer": 2, "n_inner": 10}


def test_the_head_alone_says_the_vocabulary_and_what_is_missing_says_nothing():
    assert sizes_of(Spy({"lm_head.weight": np.zeros((9, 4), np.float32)}).tensors) == {"n_vocab": 9, "n_embd": 4}
    assert sizes_of(Spy({"bert.weight": np.zeros((9, 4), np.float32)}).tensors) == {}
    assert sizes_of(Spy({"wte.weight": np.zeros(9, np.float32)}).tensors) == {}
    huge = {f"h.{'9' * 5000}.ln_1.weight": np.zeros(4, np.float32)}
    assert sizes_of(Spy(huge).tensors) == {}


LINEAR = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


@pytest.mark.parametrize("prefix", ["", "_orig_mod.transformer."])
@pytest.mark.parametrize("form", ["biases", "no biases", "no biases, gamma"])
def test_matrices_of_nn_linear_are_turned_and_biases_that_no_layer_has_are_zero(prefix, form):
    tensors = hub_tensors()
    stored = {name: x.T.copy() if name.endswith(LINEAR) else x for name, x in tensors.items()}
    if form != "biases":
        stored = {name: x for name, x in stored.items() if not name.endswith(".bias")}
        tensors = {name: x * 0 if name.endswith(".bias") else x for name, x in tensors.items()}
    if form == "no biases, gamma":
        stored = greek(stored)
    given, config = match(Spy(prefixed(prefix, stored)).tensors, TINY, "x")
    expect(read_params(given, config), tensors)


def test_one_bias_that_is_missing_is_missed_also_beside_matrices_of_nn_linear():
    stored = {name: x.T.copy() if name.endswith(LINEAR) else x for name, x in hub_tensors().items()}
    del stored["h.1.mlp.c_fc.bias"]
    with pytest.raises(Misfit, match=r"missing: h\.1\.mlp\.c_fc\.b$"):
        match(Spy(stored).tensors, TINY, "x")


def test_tensors_in_the_hubs_layout_stay_as_they_are():
    tensors = Spy(hub_tensors()).tensors
    assert find_own(tensors, "x") == (tensors, {}, False, "gelu_new")

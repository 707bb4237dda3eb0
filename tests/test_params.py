"""The parameter tree has the leaves and shapes of GPT-2, and whatever differs from it is named."""

import copy

import numpy as np
import pytest

from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.params import check_params, count_params, faults, in_short, leaves, map_leaves, param_shapes, random_params

# All sizes differ, and so do their multiples.
TINY = Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, n_inner=10)
PREFIX = "the parameters do not fit the configuration: "


def tree_of(shapes, dtype=np.float32):
    return map_leaves(lambda path, shape: np.zeros(shape, dtype), shapes)


def message(params, config=TINY):
    with pytest.raises(CheckpointError) as caught:
        check_params(params, config)
    assert str(caught.value).startswith(PREFIX)
    return str(caught.value).removeprefix(PREFIX)


# --- shapes


def test_the_tree_of_two_layers_is_written_out_here():
    block = {
        "ln_1": {"g": (6,), "b": (6,)},
        "attn": {"c_attn": {"w": (6, 18), "b": (18,)}, "c_proj": {"w": (6, 6), "b": (6,)}},
        "ln_2": {"g": (6,), "b": (6,)},
        "mlp": {"c_fc": {"w": (6, 10), "b": (10,)}, "c_proj": {"w": (10, 6), "b": (6,)}},
    }
    tied = {"wte": (11, 6), "wpe": (7, 6), "h": [block, block], "ln_f": {"g": (6,), "b": (6,)}}
    assert param_shapes(TINY) == tied
    assert param_shapes(TINY._replace(tie_word_embeddings=False)) == {**tied, "lm_head": (11, 6)}


def test_the_mlp_is_four_times_as_wide_where_no_width_is_given():
    mlp = param_shapes(TINY._replace(n_inner=None))["h"][1]["mlp"]
    assert mlp == {"c_fc": {"w": (6, 24), "b": (24,)}, "c_proj": {"w": (24, 6), "b": (6,)}}


@pytest.mark.parametrize(
    ("n_embd", "n_layer", "params", "tensors"),
    [
        (768, 12, 124_439_808, 148),
        (1024, 24, 354_823_168, 292),
        (1280, 36, 774_030_080, 436),
        (1600, 48, 1_557_611_200, 580),
        (768, 6, 81_912_576, 76),
    ],
)
def test_the_released_models_have_as_many_parameters_and_tensors_as_is_known(n_embd, n_layer, params, tensors):
    config = Config(n_embd=n_embd, n_head=n_embd // 64 if n_embd != 1600 else 25, n_layer=n_layer)
    assert count_params(config) == params
    assert len(list(leaves(param_shapes(config)))) == tensors
    assert count_params(config._replace(tie_word_embeddings=False)) == params + 50257 * n_embd


def test_a_count_that_no_machine_integer_holds_is_exact():
    assert count_params(TINY._replace(n_vocab=10**30)) - count_params(TINY) == 6 * (10**30 - 11)
    assert type(count_params(TINY)) is int


# --- leaves


def test_leaves_come_in_the_order_of_the_model():
    assert [path for path, _ in leaves(param_shapes(TINY._replace(n_layer=1, tie_word_embeddings=False)))] == [
        "wte",
        "wpe",
        "h.0.ln_1.g",
        "h.0.ln_1.b",
        "h.0.attn.c_attn.w",
        "h.0.attn.c_attn.b",
        "h.0.attn.c_proj.w",
        "h.0.attn.c_proj.b",
        "h.0.ln_2.g",
        "h.0.ln_2.b",
        "h.0.mlp.c_fc.w",
        "h.0.mlp.c_fc.b",
        "h.0.mlp.c_proj.w",
        "h.0.mlp.c_proj.b",
        "ln_f.g",
        "ln_f.b",
        "lm_head",
    ]


def test_layers_are_counted_not_sorted_as_text():
    paths = [path for path, _ in leaves({"h": [{"b": i} for i in range(12)]})]
    assert paths == [f"h.{i}.b" for i in range(12)]


def test_map_leaves_gives_each_function_the_path_that_leaves_gives_and_keeps_the_form():
    tree = param_shapes(TINY)
    before = copy.deepcopy(tree)
    mapped = map_leaves(lambda path, shape: (path, shape), tree)
    assert [leaf for _, leaf in leaves(mapped)] == list(leaves(tree))
    assert tree == before
    assert map_leaves(lambda path, leaf: leaf[1], mapped) == tree
    assert isinstance(mapped["h"], list)


def test_map_leaves_makes_a_tree_of_its_own_for_each_layer():
    tree = map_leaves(lambda path, shape: shape, param_shapes(TINY))
    assert tree["h"][0] is not tree["h"][1]
    assert tree["h"][0]["attn"] is not tree["h"][1]["attn"]


# --- faults


def test_nothing_is_wrong_with_what_fits():
    shapes = {"wte": (3, 2), "b": (2,)}
    assert faults(shapes, dict(reversed(shapes.items()))) == {}


def test_all_faults_are_said_in_one_go():
    expected = {"a": (3, 2), "b": (2,), "c": (4,), "d": (2, 2), "e": (5, 1)}
    given = {"e": (1, 5), "score": (9,), "a": (3, 3), "b": (2, 1), "x": ()}
    found = faults(given, expected)
    assert found == {
        "missing": ["c", "d"],
        "left over": ["score", "x"],
        "of another shape": [
            "e: shape (1, 5), expected (5, 1): looks transposed, as nn.Linear stores it",
            "a: shape (3, 3), expected (3, 2)",
            "b: shape (2, 1), expected (2,)",
        ],
    }
    assert in_short(found) == "missing: c, d; left over: score, x; " + "; ".join(found["of another shape"])


@pytest.mark.parametrize("n", [4, 1000])
def test_of_many_faults_of_a_kind_the_number_is_said_and_three_are_shown(n):
    found = faults({f"x{i}": (1,) for i in range(n)} | {"y": (1, 2)}, {"y": (1, 1)})
    assert in_short(found) == f"left over: {n:,} tensors, such as x0, x1, x2; y: shape (1, 2), expected (1, 1)"
    found = faults({f"x{i}": (1, 2) for i in range(n)}, {f"x{i}": (1,) for i in range(n)})
    shown = "; ".join(f"x{i}: shape (1, 2), expected (1,)" for i in range(3))
    assert in_short(found) == f"{n:,} tensors of another shape, such as {shown}"
    assert len(found["of another shape"]) == n


def test_a_vector_of_another_length_does_not_look_transposed():
    assert faults({"b": (3,)}, {"b": (2,)}) == {"of another shape": ["b: shape (3,), expected (2,)"]}


# --- check_params


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_tree_that_fits_passes(dtype, tied):
    config = TINY._replace(tie_word_embeddings=tied)
    assert check_params(tree_of(param_shapes(config), dtype), config) is None


def test_a_missing_tensor_is_named():
    params = tree_of(param_shapes(TINY))
    del params["h"][1]["attn"]["c_proj"]
    assert message(params) == "missing: h.1.attn.c_proj.w, h.1.attn.c_proj.b"


def test_a_missing_layer_is_named():
    params = tree_of(param_shapes(TINY))
    del params["h"][1]
    assert message(params).startswith("missing: 12 tensors, such as h.1.ln_1.g, h.1.ln_1.b, h.1.attn.c_attn.w")


def test_a_tensor_left_over_is_named():
    params = tree_of(param_shapes(TINY))
    params["h"][0]["attn"]["bias"] = np.zeros((1, 1, 7, 7), np.float32)
    assert message(params) == "left over: h.0.attn.bias"


@pytest.mark.parametrize(("tied", "fault"), [(True, "left over: lm_head"), (False, "missing: lm_head")])
def test_the_head_is_there_if_and_only_if_it_is_not_tied(tied, fault):
    params = tree_of(param_shapes(TINY._replace(tie_word_embeddings=not tied)))
    assert message(params, TINY._replace(tie_word_embeddings=tied)) == fault


def test_a_transposed_matrix_is_told_from_another_one():
    params = tree_of(param_shapes(TINY))
    params["h"][0]["attn"]["c_attn"]["w"] = np.zeros((18, 6), np.float32)
    params["wpe"] = np.zeros((6, 6), np.float32)
    assert message(params) == (
        "wpe: shape (6, 6), expected (7, 6); "
        "h.0.attn.c_attn.w: shape (18, 6), expected (6, 18): looks transposed, as nn.Linear stores it"
    )


def test_two_dtypes_in_one_tree_are_refused():
    params = tree_of(param_shapes(TINY))
    params["ln_f"]["g"] = params["ln_f"]["g"].astype(np.float64)
    assert message(params) == "dtypes float32, float64, expected float32 or float64 throughout"


@pytest.mark.parametrize("dtype", ["float16", "int64", "bool", "complex64"])
def test_a_dtype_that_the_math_is_not_made_for_is_refused(dtype):
    assert message(tree_of(param_shapes(TINY), dtype)) == f"dtypes {dtype}, expected float32 or float64 throughout"


def test_faults_of_shape_and_dtype_are_said_together():
    params = tree_of(param_shapes(TINY), np.int32)
    del params["ln_f"]["b"]
    assert message(params) == "missing: ln_f.b; dtypes int32, expected float32 or float64 throughout"


@pytest.mark.parametrize("leaf", [None, "wte", 3])
def test_a_leaf_that_is_no_array_is_refused(leaf):
    assert message({**tree_of(param_shapes(TINY)), "wte": leaf}).startswith("wte: shape (), expected (11, 6); dtypes ")


@pytest.mark.parametrize("params", [None, {}, []])
def test_a_tree_that_is_none_is_refused(params):
    assert message(params).startswith("missing: 28 tensors, such as wte, wpe, h.0.ln_1.g")


@pytest.mark.parametrize("form", ["flat", "layers in a dict"])
def test_a_tree_of_another_form_with_the_same_paths_is_refused(form):
    params = tree_of(param_shapes(TINY))
    wrong = dict(leaves(params)) if form == "flat" else {**params, "h": dict(enumerate(params["h"]))}
    message(wrong)


# --- random_params


@pytest.mark.parametrize("dtype", [None, "float32", "float64", np.float64])
def test_random_parameters_fit_their_config(dtype):
    config = TINY._replace(tie_word_embeddings=False)
    params = random_params(config) if dtype is None else random_params(config, dtype=dtype)
    check_params(params, config)
    assert {leaf.dtype.name for _, leaf in leaves(params)} == {np.dtype(dtype or "float32").name}


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others():
    one, same, other = (dict(leaves(random_params(TINY, seed))) for seed in (5, 5, 6))
    for path in one:
        np.testing.assert_array_equal(one[path], same[path], strict=True)
        assert np.array_equal(one[path], other[path]) == path.endswith((".g", ".b"))
    np.testing.assert_array_equal(random_params(TINY)["wte"], random_params(TINY, seed=0)["wte"])


def test_random_parameters_are_distributed_as_gpt2_begins():
    config = Config(n_vocab=1000, n_ctx=500, n_embd=128, n_head=2, n_layer=8, tie_word_embeddings=False)
    for path, x in leaves(random_params(config, seed=1)):
        if path.endswith(".g"):
            assert np.all(x == 1), path
        elif path.endswith(".b"):
            assert np.all(x == 0), path
        else:
            # Two projections into the residual stream in each of 8 layers: 0.02 / sqrt(16).
            sigma = 0.005 if path.endswith("c_proj.w") else 0.02
            n = x.size  # at least 16,384: the standard deviation of n draws is sigma (1 +- 1 / sqrt(2 n))
            assert abs(x.std() / sigma - 1) < 5 / np.sqrt(2 * n), path
            assert abs(x.mean()) < 5 * sigma / np.sqrt(n), path
            assert 3.5 * sigma < np.abs(x).max() < 7 * sigma, path


def test_no_two_random_tensors_are_alike_or_share_memory():
    weights = [x for _, x in leaves(random_params(TINY._replace(n_layer=3))) if x.ndim == 2]
    firsts = [x.flat[0] for x in weights]
    assert len(set(firsts)) == len(firsts) == 2 + 3 * 4
    everything = [x for _, x in leaves(random_params(TINY))]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(everything) for b in everything[:i])
    assert all(x.flags.writeable for x in everything)


def test_float64_holds_the_same_draws_as_float32():
    narrow, wide = random_params(TINY, 3, np.float32), random_params(TINY, 3, np.float64)
    for (path, a), (_, b) in zip(leaves(narrow), leaves(wide), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=path)

"""The model: a forward pass worked out by hand, and what holds for every GPT-2 whatever its weights.

That the numbers of real models are right is tested in test_reference.py, against Transformers. Here are the laws:
nothing sees the future, a cache changes nothing, heads do not mix, `record` sees and replaces, wrong input is refused.

Where the order of additions may differ (another number of rows takes another path through BLAS), CLOSE allows 1e-12 of
the largest value: rounding makes some 1e-14 of it, and any float32 step would make 1e-7. Otherwise bits must be equal.
"""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import model
from numgpt.cache import KVCache
from numgpt.checks import check_ids
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.model import attend, attention, block, embed, forward, merge_heads, mlp, split_heads
from numgpt.params import leaves, map_leaves, random_params
from numgpt.trace import trace_shapes

CLOSE = 1e-12

SMALL = Config(n_vocab=23, n_ctx=12, n_embd=12, n_head=3, n_layer=2)
CONFIGS = {
    "plain": SMALL,
    "one layer, one head": Config(n_vocab=7, n_ctx=8, n_embd=4, n_head=1, n_layer=1),
    "heads of one feature": Config(n_vocab=7, n_ctx=8, n_embd=4, n_head=4, n_layer=2, activation_function="relu"),
    "own head, narrow MLP": SMALL._replace(tie_word_embeddings=False, n_inner=5, activation_function="gelu"),
    "unscaled": SMALL._replace(scale_attn_weights=False, layer_norm_epsilon=0.1),
    "by layer": SMALL._replace(scale_attn_by_inverse_layer_idx=True, n_layer=3, activation_function="silu"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def params_of(config, dtype=np.float64):
    """Return parameters under which attention is uneven, gains are not 1 and biases are not 0."""
    rng = np.random.default_rng(1)

    def leaf(path, x):
        x = x + rng.normal(0, 0.5, x.shape) if path.endswith((".g", ".b")) else x * 40
        return x.astype(dtype)

    return map_leaves(leaf, random_params(config, seed=1))


def ids_of(config, T, seed=0):
    return np.random.default_rng(seed).integers(0, config.n_vocab, T).tolist()


def traced(ids, params, config, cache=None, change=None):
    """Run forward and return everything that it records, in order; change, name -> tensor, is put in place."""
    seen = {}

    def record(name, x):
        assert name not in seen, f"{name} was recorded twice"
        seen[name] = x = (change or {}).get(name, x)
        return x

    logits = forward(ids, params, config, cache=cache, record=record)
    assert logits is seen["logits"]
    return seen


def assert_close(x, y):
    assert x.shape == y.shape
    assert x.dtype == y.dtype == np.float64
    np.testing.assert_allclose(x, y, rtol=0, atol=CLOSE * np.abs(y[np.isfinite(y)]).max(initial=0))


def assert_equal_trees(a, b):
    a, b = dict(leaves(a)), dict(leaves(b))
    assert list(a) == list(b)
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def frozen(tree):
    """Return the tree with every leaf read-only, so that a write raises."""

    def freeze(path, x):
        x = x.copy()
        x.flags.writeable = False
        return x

    return map_leaves(freeze, tree)


# --- by hand
#
# One layer, one head, two features. Without eps, layer_norm of two numbers is (1, -1) or (-1, 1): which one is larger.

HAND = Config(n_vocab=3, n_ctx=4, n_embd=2, n_head=1, n_layer=1, n_inner=3, layer_norm_epsilon=0.0)
HAND = HAND._replace(activation_function="relu", eos_token_id=None)
LOG3 = math.log(3)
HAND_PARAMS = {
    "wte": [[1, 0], [0, 2], [3, 1]],
    "wpe": [[1, 0], [0, 0], [0, 1], [9, 19]],
    "h": [
        {
            "ln_1": {"g": [2, 1], "b": [1, 0]},
            "attn": {
                # q is (sqrt 2, 0) everywhere, which undoes the scale 1/sqrt(2), so that the score is the first feature
                # of k: -log(3)/2 times the second of x. v is x.
                "c_attn": {
                    "w": [[0, 0, 0, 0, 1, 0], [0, 0, -LOG3 / 2, 0, 0, 1]],
                    "b": [math.sqrt(2), 0, 0, 0, 0, 0],
                },
                "c_proj": {"w": [[1, 0], [0, 2]], "b": [0, 1]},
            },
            "ln_2": {"g": [1, 1], "b": [0, 1]},
            "mlp": {
                "c_fc": {"w": [[1, 0, 1], [0, 1, 1]], "b": [0, -1, 0]},
                "c_proj": {"w": [[1, 2], [3, 4], [5, 6]], "b": [0, -1]},
            },
        }
    ],
    "ln_f": {"g": [1, 2], "b": [0, 0.5]},
}
HAND_IDS = [1, 0, 2]
LOW = -math.inf
HAND_TENSORS = {
    "embed": [[1, 2], [1, 0], [3, 2]],
    "h.0.ln_1": [[-1, 1], [3, -1], [3, -1]],
    "h.0.attn.q": [[[math.sqrt(2), 0]] * 3],
    "h.0.attn.k": [[[-LOG3 / 2, 0], [LOG3 / 2, 0], [LOG3 / 2, 0]]],
    "h.0.attn.v": [[[-1, 1], [3, -1], [3, -1]]],
    "h.0.attn.scores": [[[-LOG3 / 2, LOW, LOW], [-LOG3 / 2, LOG3 / 2, LOW], [-LOG3 / 2, LOG3 / 2, LOG3 / 2]]],
    "h.0.attn.weights": [[[1, 0, 0], [1 / 4, 3 / 4, 0], [1 / 7, 3 / 7, 3 / 7]]],
    "h.0.attn.z": [[[-1, 1], [2, -1 / 2], [17 / 7, -5 / 7]]],
    "h.0.attn_out": [[-1, 3], [2, 0], [17 / 7, -3 / 7]],
    "h.0.resid_mid": [[0, 5], [3, 0], [38 / 7, 11 / 7]],
    "h.0.ln_2": [[-1, 2], [1, 0], [1, 0]],
    "h.0.mlp.pre": [[-1, 1, 1], [1, -1, 1], [1, -1, 1]],
    "h.0.mlp.post": [[0, 1, 1], [1, 0, 1], [1, 0, 1]],
    "h.0.mlp_out": [[8, 9], [6, 7], [6, 7]],
    "h.0.resid_post": [[8, 14], [9, 7], [80 / 7, 60 / 7]],
    "ln_f": [[-1, 2.5], [1, -1.5], [1, -1.5]],
    "logits": [[-1, 5, -0.5], [1, -3, 1.5], [1, -3, 1.5]],
}


def hand_params(dtype=np.float64):
    def arrays(tree):
        if isinstance(tree, dict):
            return {key: arrays(value) for key, value in tree.items()}
        return [arrays(p) for p in tree] if isinstance(tree[0], dict) else np.array(tree, dtype)

    return arrays(HAND_PARAMS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_tensor_of_a_pass_that_was_worked_out_by_hand(dtype):
    seen = traced(HAND_IDS, hand_params(dtype), HAND)
    assert list(seen) == list(HAND_TENSORS)
    for name, expected in HAND_TENSORS.items():
        assert seen[name].dtype == dtype
        # Numbers below 20 after some ten roundings each.
        np.testing.assert_allclose(seen[name], expected, rtol=0, atol=100 * np.finfo(dtype).eps, err_msg=name)


def test_an_output_head_of_its_own_is_used_by_hand():
    params = hand_params() | {"lm_head": np.array([[2.0, 0], [0, 10], [1, 1]])}
    logits = forward(HAND_IDS, params, HAND)
    np.testing.assert_allclose(logits, [[-2, 25, 1.5], [2, -15, -0.5], [2, -15, -0.5]], rtol=1e-14)


def test_a_fourth_token_by_hand_from_a_cache():
    # x = wte[1] + wpe[3] = (9, 21), normalised (-1, 1): like the first, it scores -log(3)/2 and its value is (-1, 1).
    cache = KVCache(HAND, np.float64)
    forward(HAND_IDS, hand_params(), HAND, cache=cache)
    seen = traced([1], hand_params(), HAND, cache)
    assert seen["embed"].tolist() == [[9, 21]]
    np.testing.assert_allclose(seen["h.0.attn.weights"], [[[1 / 8, 3 / 8, 3 / 8, 1 / 8]]], rtol=2e-15)
    np.testing.assert_allclose(seen["h.0.attn.z"], [[[2, -1 / 2]]], rtol=2e-15)
    np.testing.assert_allclose(seen["h.0.resid_post"], [[19, 30]], rtol=2e-15)  # (9, 21) + (2, 0) + (8, 9)
    np.testing.assert_allclose(seen["logits"], [[-1, 5, -0.5]], rtol=2e-15)


# --- embed, heads


def test_embed_adds_the_row_of_the_token_and_the_row_of_the_position():
    wte, wpe = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[10.0, 20], [30, 40], [50, 60], [70, 80]])
    assert embed(np.array([2, 0, 2]), wte, wpe).tolist() == [[15, 26], [31, 42], [55, 66]]
    assert embed(np.array([2, 0]), wte, wpe, past=2).tolist() == [[55, 66], [71, 82]]
    assert embed(np.array([1]), wte.astype(np.float32), wpe.astype(np.float32), past=1).dtype == np.float32


@pytest.mark.parametrize(("T", "H", "D"), [(1, 1, 1), (1, 4, 3), (5, 1, 3), (5, 3, 1), (2, 3, 4)])
def test_split_heads_moves_each_feature_to_its_head_and_merge_heads_moves_it_back(T, H, D):
    x = np.arange(T * H * D).reshape(T, H * D)
    heads = split_heads(x, H)
    assert heads.shape == (H, T, D)
    for h in range(H):
        for t in range(T):
            assert heads[h, t].tolist() == [x[t, h * D + d] for d in range(D)]
    np.testing.assert_array_equal(merge_heads(heads), x)
    y = np.arange(H * T * D).reshape(H, T, D)
    np.testing.assert_array_equal(split_heads(merge_heads(y), H), y)


# --- attend


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attend_by_hand(dtype):
    # Two heads with keys in one direction each, so that q k^T is one product; scale 1/2 takes 2 log w to log w.
    q = np.array([[[2, 0], [2, 0], [-2, 0]], [[0, 2], [0, 0], [0, 2]]], dtype)
    a, b = np.log([1, 2, 5]), np.log([3, 1, 4])
    k = np.array([np.stack([a, [7, 7, 7]], 1), np.stack([[7, 7, 7], b], 1)], dtype)
    v = np.array([[[1, 0], [0, 1], [2, 2]], [[8, 0], [0, 8], [8, 8]]], dtype)
    z = attend(q, k, v, scale=0.5)
    expected = [
        [[1, 0], [1 / 3, 2 / 3], np.dot([10 / 17, 5 / 17, 2 / 17], [[1, 0], [0, 1], [2, 2]])],  # 1/1, 1/2, 1/5
        [[8, 0], [4, 4], np.dot([3 / 8, 1 / 8, 4 / 8], [[8, 0], [0, 8], [8, 8]])],
    ]
    assert z.dtype == dtype
    np.testing.assert_allclose(z, expected, rtol=0, atol=40 * np.finfo(dtype).eps)  # scores up to 14, values up to 8


def test_attend_lines_up_fewer_queries_with_the_last_positions():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(0, 2, (3, 2, 6, 4))
    whole = attend(q, k, v, scale=0.5)
    for T in range(1, 7):
        assert_close(attend(q[:, -T:], k, v, scale=0.5), whole[:, -T:])


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 6))
def test_weights_are_a_distribution_over_the_positions_that_may_be_seen_and_z_lies_among_their_values(seed, T, past):
    rng = np.random.default_rng(seed)
    S = past + T
    q, k, v = (rng.normal(0, 3, (2, n, 4)) for n in (T, S, S))
    seen = {}
    z = attend(q, k, v, 0.5, lambda name, x: seen.setdefault(name, x))
    scores, weights = seen["attn.scores"], seen["attn.weights"]
    assert seen["attn.z"] is z
    direction = rng.normal(size=4)
    for h, t in np.ndindex(2, T):
        visible = past + t + 1
        assert (weights[h, t, visible:] == 0).all()
        assert (scores[h, t, visible:] == -math.inf).all()
        assert np.isfinite(scores[h, t, :visible]).all()
        assert (weights[h, t, :visible] > 0).all()
        assert abs(math.fsum(weights[h, t]) - 1) <= (S + 2) * np.finfo(float).eps
        # An average lies between the extremes in every direction. Slack: S products and additions of numbers below 50.
        among = v[h, :visible] @ direction
        slack = 50 * (S + 4) * np.finfo(float).eps
        assert among.min() - slack <= z[h, t] @ direction <= among.max() + slack


def test_a_query_that_matches_one_key_far_better_takes_its_value():
    q = np.array([[[100.0, 0], [100, 0], [0, 100]]])
    k = np.array([[[0.0, 10], [10, 0], [-10, -10]]])
    v = np.array([[[1.0, 2], [3, 4], [5, 6]]])
    assert attend(q, k, v, scale=1.0).tolist() == [[[1, 2], [3, 4], [1, 2]]]


# --- attention


def attention_of(config, x, layer=0, **changed):
    """Run attention of the first layer's parameters; return its output and what it recorded."""
    seen = {}
    p = params_of(config)["h"][0]["attn"] | changed
    return attention(x, **p, config=config, layer=layer, record=lambda name, x: seen.setdefault(name, x)), seen


def inputs(config, T):
    return np.random.default_rng(5).normal(size=(T, config.n_embd))


def test_the_parameters_of_these_tests_make_attention_uneven():
    _, seen = attention_of(SMALL, inputs(SMALL, 8))
    assert seen["attn.weights"][:, -1].max() > 0.5
    assert seen["attn.weights"][:, -1].min() < 0.02


def test_attention_projects_to_q_k_and_v_in_this_order_and_back():
    x = inputs(SMALL, 5)
    p = params_of(SMALL)["h"][0]["attn"]
    y, seen = attention_of(SMALL, x)
    for i, name in enumerate(["attn.q", "attn.k", "attn.v"]):
        for h in range(3):
            at = slice(12 * i + 4 * h, 12 * i + 4 * h + 4)
            assert_close(seen[name][h], x @ p["c_attn"]["w"][:, at] + p["c_attn"]["b"][at])
    # The output is the sum of what each head writes.
    written = sum(seen["attn.z"][h] @ p["c_proj"]["w"][4 * h : 4 * h + 4] for h in range(3))
    assert_close(y, written + p["c_proj"]["b"])


@pytest.mark.parametrize("head", range(3))
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_a_change_in_one_head_changes_that_head_and_no_other(part, head):
    x = inputs(SMALL, 6)
    _, before = attention_of(SMALL, x)
    w = params_of(SMALL)["h"][0]["attn"]["c_attn"]["w"]
    start = 12 * "qkv".index(part) + 4 * head
    w[:, start : start + 4] += np.random.default_rng(3).normal(size=(12, 4))
    _, after = attention_of(SMALL, x, c_attn={"w": w, "b": params_of(SMALL)["h"][0]["attn"]["c_attn"]["b"]})
    others = [h for h in range(3) if h != head]
    for name in before:
        np.testing.assert_array_equal(after[name][others], before[name][others], err_msg=name)
    assert (after["attn.z"][head, 1:] != before["attn.z"][head, 1:]).all()


def test_the_order_of_heads_does_not_matter():
    x = inputs(SMALL, 6)
    y, seen = attention_of(SMALL, x)
    p = params_of(SMALL)["h"][0]["attn"]
    features = np.arange(12).reshape(3, 4)[[2, 0, 1]].ravel()  # head 2 first, then 0, then 1
    columns = np.concatenate([features, features + 12, features + 24])
    c_attn = {"w": p["c_attn"]["w"][:, columns], "b": p["c_attn"]["b"][columns]}
    c_proj = {"w": p["c_proj"]["w"][features], "b": p["c_proj"]["b"]}
    shuffled, moved = attention_of(SMALL, x, c_attn=c_attn, c_proj=c_proj)
    assert_close(shuffled, y)
    assert_close(moved["attn.weights"], seen["attn.weights"][[2, 0, 1]])


def test_scores_are_divided_by_the_root_of_the_head_size_and_by_the_number_of_the_layer_where_the_config_says_so():
    x = inputs(SMALL, 5)  # D is 4, so the root is 2 and every divisor exact, but for that of layer 2: 3
    scores = {}
    for by_size in True, False:
        for by_layer in True, False:
            config = SMALL._replace(scale_attn_weights=by_size, scale_attn_by_inverse_layer_idx=by_layer)
            for layer in range(3):
                scores[by_size, by_layer, layer] = attention_of(config, x, layer)[1]["attn.scores"]
    plain = scores[False, False, 0]
    _, seen = attention_of(SMALL, x)
    for h, t, s in np.ndindex(3, 5, 5):
        match = math.fsum(seen["attn.q"][h, t] * seen["attn.k"][h, s])
        assert plain[h, t, s] == (pytest.approx(match, rel=0, abs=1e-13) if s <= t else -math.inf)
    for (by_size, by_layer, layer), found in scores.items():
        divisor = (2 if by_size else 1) * (layer + 1 if by_layer else 1)
        np.testing.assert_allclose(found, plain / divisor, rtol=4e-16)


def test_the_scale_of_a_head_of_three_features_is_one_over_the_root_of_three():
    config = Config(n_vocab=5, n_ctx=4, n_embd=6, n_head=2, n_layer=1)
    _, seen = attention_of(config, inputs(config, 4))
    _, unscaled = attention_of(config._replace(scale_attn_weights=False), inputs(config, 4))
    np.testing.assert_allclose(seen["attn.scores"] * 3**0.5, unscaled["attn.scores"], rtol=1e-15)


# --- mlp, block


def test_mlp_by_hand_with_each_activation():
    c_fc = {"w": np.array([[1.0, 0], [0, 2]]), "b": np.array([0.0, -1])}
    c_proj = {"w": np.array([[1.0, 10], [100, 1000]]), "b": np.array([0.0, 0.5])}
    x = np.array([[1.0, 0], [-1, 1]])  # before the activation: (1, -1) and (-1, 1)
    values = {"gelu_new": (0.841192, -0.158808), "gelu": (0.841345, -0.158655), "relu": (1, 0)}
    values |= {"silu": (0.731059, -0.268941), "tanh": (0.761594, -0.761594)}
    for activation, (up, down) in values.items():
        seen = {}
        config = Config(n_embd=2, n_inner=2, activation_function=activation)
        y = mlp(x, c_fc, c_proj, config, lambda name, x, seen=seen: seen.setdefault(name, x))
        assert seen["mlp.pre"].tolist() == [[1, -1], [-1, 1]]
        np.testing.assert_array_equal(seen["mlp.post"].round(6), [[up, down], [down, up]])
        expected = [[up + 100 * down, 10 * up + 1000 * down + 0.5], [down + 100 * up, 10 * down + 1000 * up + 0.5]]
        np.testing.assert_allclose(y, expected, rtol=0, atol=6e-4)  # half a digit, times 1010


def test_mlp_treats_each_position_by_itself():
    p = params_of(SMALL)["h"][0]["mlp"]
    x = inputs(SMALL, 6)
    y = mlp(x, **p, config=SMALL)
    for t in range(6):
        assert_close(mlp(x[t : t + 1], **p, config=SMALL), y[t : t + 1])


def test_a_block_whose_projections_write_nothing_is_the_identity():
    p = params_of(SMALL)["h"][0]
    for part in "attn", "mlp":
        p[part]["c_proj"] = {key: np.zeros_like(x) for key, x in p[part]["c_proj"].items()}
    x = inputs(SMALL, 5)
    np.testing.assert_array_equal(block(x, p, SMALL), x)


@pytest.mark.parametrize(("silenced", "left"), [("attn", "mlp_out"), ("mlp", "attn_out")])
def test_with_one_branch_silenced_a_block_adds_the_other(silenced, left):
    p = params_of(SMALL)["h"][0]
    p[silenced]["c_proj"] = {key: np.zeros_like(x) for key, x in p[silenced]["c_proj"].items()}
    x, seen = inputs(SMALL, 5), {}
    y = block(x, p, SMALL, record=lambda name, x: seen.setdefault(name, x))
    np.testing.assert_array_equal(y, x + seen[left])
    # Both branches read the same stream here, so each layer norm is seen to use its own gain and shift.
    standard = (seen["ln_1"] - p["ln_1"]["b"]) / p["ln_1"]["g"]
    if silenced == "attn":
        assert_close(seen["ln_2"], standard * p["ln_2"]["g"] + p["ln_2"]["b"])


def test_the_epsilon_of_the_config_is_used_by_every_layer_norm():
    # With an epsilon far above any variance, a normalised vector is almost nothing, so what is left is the shift.
    config = SMALL._replace(layer_norm_epsilon=1e30)
    params = params_of(config)
    seen = traced(ids_of(config, 5), params, config)
    for name, p in [(f"h.{i}.{n}", params["h"][i][n]) for i in range(2) for n in ("ln_1", "ln_2")] + [
        ("ln_f", params["ln_f"])
    ]:
        np.testing.assert_allclose(seen[name], np.tile(p["b"], (5, 1)), rtol=0, atol=1e-12)  # stds are below 1000


# --- what forward records: the names and shapes of TRACE_SHAPES


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_config
def test_names_shapes_and_dtypes_are_those_of_the_table_with_and_without_a_past(config, dtype):
    params = params_of(config, dtype)
    cache = KVCache(config, dtype)
    for T, S, held in (3, 3, None), (4, 4, cache), (2, 6, cache), (1, 7, cache):
        seen = traced(ids_of(config, T), params, config, held)
        assert {name: x.shape for name, x in seen.items()} == trace_shapes(config, T, past=S - T)
        assert list(seen) == list(trace_shapes(config, T, past=S - T))  # in the order in which they are computed
        assert {x.dtype for x in seen.values()} == {np.dtype(dtype)}


def test_record_in_names_the_layer_and_passes_the_answer_on():
    calls = []

    def record(name, x):
        calls.append((name, x))
        return "answer"

    assert model.record_in(3, record)("attn.q", "question") == "answer"
    assert calls == [("h.3.attn.q", "question")]
    assert model.record_in(3, model.identity) is model.identity  # the default costs nothing
    assert model.identity("attn.q", "question") == "question"


# From what each tensor is computed. In a layer, "x" stands for the stream that enters it.
PARENTS = {
    "ln_1": ["x"],
    "attn.q": ["ln_1"],
    "attn.k": ["ln_1"],
    "attn.v": ["ln_1"],
    "attn.scores": ["attn.q", "attn.k"],
    "attn.weights": ["attn.scores"],
    "attn.z": ["attn.weights", "attn.v"],
    "attn_out": ["attn.z"],
    "resid_mid": ["x", "attn_out"],
    "ln_2": ["resid_mid"],
    "mlp.pre": ["ln_2"],
    "mlp.post": ["mlp.pre"],
    "mlp_out": ["mlp.post"],
    "resid_post": ["resid_mid", "mlp_out"],
}


def graph(config):
    parents, x = {"embed": []}, "embed"
    for i in range(config.n_layer):
        for name, those in PARENTS.items():
            parents[f"h.{i}.{name}"] = [x if parent == "x" else f"h.{i}.{parent}" for parent in those]
        x = f"h.{i}.resid_post"
    return parents | {"ln_f": [x], "logits": ["ln_f"]}


def test_a_tensor_replaced_by_record_reaches_all_that_is_computed_from_it_and_nothing_else():
    params, ids = params_of(SMALL), ids_of(SMALL, 5)
    before = traced(ids, params, SMALL)
    assert list(before) == list(graph(SMALL))
    for name, x in before.items():
        after = traced(ids, params, SMALL, change={name: x + np.random.default_rng(2).normal(size=x.shape)})
        reached = {name}
        for child, parents in graph(SMALL).items():
            if reached & set(parents):
                reached.add(child)
        assert {other for other in before if not np.array_equal(before[other], after[other])} == reached, name


def test_patching_the_parents_of_a_tensor_from_another_run_gives_that_run_s_tensor():
    params = params_of(SMALL)
    here, there = (traced(ids_of(SMALL, 5, seed), params, SMALL) for seed in (1, 2))
    for name, parents in graph(SMALL).items():
        if parents:
            assert not np.array_equal(here[name], there[name])
            patched = traced(ids_of(SMALL, 5, 1), params, SMALL, change={parent: there[parent] for parent in parents})
            np.testing.assert_array_equal(patched[name], there[name], err_msg=name)


def test_an_ablated_head_writes_nothing():
    params, ids = params_of(SMALL), ids_of(SMALL, 5)
    z = traced(ids, params, SMALL)["h.1.attn.z"].copy()
    z[2] = 0
    ablated = traced(ids, params, SMALL, change={"h.1.attn.z": z})["logits"]
    params["h"][1]["attn"]["c_proj"]["w"][8:] = 0  # the rows that read head 2
    assert_close(forward(ids, params, SMALL), ablated)


def test_a_replaced_key_or_value_is_what_the_cache_remembers():
    params, cache = params_of(SMALL), KVCache(SMALL, np.float64)
    k, v = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    traced(ids_of(SMALL, 5), params, SMALL, cache, change={"h.1.attn.k": k, "h.0.attn.v": v})
    np.testing.assert_array_equal(cache.k[1, :, :5], k)
    np.testing.assert_array_equal(cache.v[0, :, :5], v)


# --- the future and the past


@every_config
def test_a_changed_future_changes_no_bit_of_the_past(config):
    params = params_of(config)
    T = 7
    ids = ids_of(config, T)
    before = traced(ids, params, config)
    for t in range(1, T):
        changed = ids[:t] + [(i + 1) % config.n_vocab for i in ids[t:]]
        after = traced(changed, params, config)
        for name, x in before.items():
            # The axis of positions is the last but one; keys from t on are masked.
            np.testing.assert_array_equal(x[..., :t, :], after[name][..., :t, :], err_msg=name)
        assert (before["logits"][t:] != after["logits"][t:]).all()


@every_config
def test_the_past_is_seen(config):
    params, ids = params_of(config), ids_of(config, 6)
    changed = [(ids[0] + 1) % config.n_vocab, *ids[1:]]
    a, b = forward(ids, params, config), forward(changed, params, config)
    assert (a != b).any(axis=1).all()


def test_the_same_token_scores_differently_at_another_position():
    logits = forward([3] * 6, params_of(SMALL), SMALL)
    assert len({tuple(row) for row in logits.tolist()}) == 6


@every_config
def test_every_way_to_cut_a_text_in_two_gives_the_logits_of_the_whole(config):
    params, T = params_of(config), config.n_ctx
    ids = ids_of(config, T)
    whole = forward(ids, params, config)
    for cut in range(1, T):
        cache = KVCache(config, np.float64)
        assert_close(forward(ids[:cut], params, config, cache=cache), whole[:cut])
        assert len(cache) == cut
        assert_close(forward(ids[cut:], params, config, cache=cache), whole[cut:])
        assert len(cache) == T


@every_config
def test_one_token_at_a_time_gives_the_logits_of_the_whole(config):
    params, ids = params_of(config), ids_of(config, config.n_ctx)
    cache = KVCache(config, np.float64)
    steps = [forward([i], params, config, cache=cache) for i in ids]
    assert_close(np.concatenate(steps), forward(ids, params, config))


acts = st.tuples(
    st.sampled_from(["feed", "feed", "truncate", "fork"]),
    st.integers(0, 5),
    st.lists(st.integers(0, 22), min_size=1, max_size=6),
)


@given(st.lists(acts, max_size=14), st.sampled_from(["plain", "own head, narrow MLP", "by layer"]))
def test_whatever_is_fed_taken_back_and_forked_off_a_cached_pass_equals_one_over_the_whole_text(life, name):
    config = CONFIGS[name]
    params = params_of(config)
    branches = [(KVCache(config, np.float64), [])]
    for act, which, ids in life:
        cache, text = branches[which % len(branches)]
        if act == "feed" and len(text) + len(ids) <= config.n_ctx:
            logits = forward(ids, params, config, cache=cache)
            text.extend(ids)
            assert_close(logits, forward(text, params, config)[-len(ids) :])
        elif act == "truncate":
            n = min(len(ids), len(text))
            cache.truncate(n)
            del text[n:]
        elif act == "fork":
            branches.append((cache.fork(), text.copy()))
    for cache, text in branches:  # and each branch still goes on from its own text
        assert len(cache) == len(text)
        if len(text) < config.n_ctx:
            assert_close(forward([5], params, config, cache=cache), forward([*text, 5], params, config)[-1:])


# --- forward


@pytest.mark.parametrize("kind", [list, tuple, np.array, *(np.int8, np.int16, np.int32, np.int64), np.uint8, np.uint64])
def test_ids_may_be_a_list_or_an_array_of_any_integers(kind):
    params, ids = params_of(SMALL), ids_of(SMALL, 5)
    given = np.array(ids, kind) if isinstance(kind, type) and issubclass(kind, np.integer) else kind(ids)
    np.testing.assert_array_equal(forward(given, params, SMALL), forward(ids, params, SMALL))


def test_ids_may_be_a_list_of_numpy_integers():
    params, ids = params_of(SMALL), ids_of(SMALL, 5)
    np.testing.assert_array_equal(forward([np.int64(i) for i in ids], params, SMALL), forward(ids, params, SMALL))


@every_config
def test_logits_to_keep_gives_the_last_rows_and_zero_gives_all(config):
    params, ids = params_of(config), ids_of(config, 5)
    whole = forward(ids, params, config)
    assert whole.shape == (5, config.n_vocab)
    np.testing.assert_array_equal(forward(ids, params, config, logits_to_keep=0), whole)
    for n in range(1, 8):
        assert_close(forward(ids, params, config, logits_to_keep=n), whole[-n:])  # more than there are gives all


def test_logits_to_keep_changes_nothing_but_the_logits():
    params, ids = params_of(SMALL), ids_of(SMALL, 5)
    shapes = {}
    cache = KVCache(SMALL, np.float64)
    forward(ids, params, SMALL, cache, 2, lambda name, x: shapes.setdefault(name, x.shape) and x)
    assert shapes == trace_shapes(SMALL, 5) | {"logits": (2, 23)}
    assert len(cache) == 5


def test_the_head_is_the_embedding_unless_there_is_a_leaf_of_its_own():
    params, ids = params_of(SMALL), ids_of(SMALL, 5)
    tied = forward(ids, params, SMALL)
    np.testing.assert_array_equal(forward(ids, params | {"lm_head": params["wte"].copy()}, SMALL), tied)
    np.testing.assert_array_equal(forward(ids, params | {"lm_head": params["wte"] * 2}, SMALL), tied * 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_config
def test_forward_writes_to_neither_ids_nor_parameters_and_gives_the_same_each_time(config, dtype):
    params, ids = frozen(params_of(config, dtype)), np.array(ids_of(config, 5))
    ids.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = forward(ids, params, config)
    first_copy = first.copy()
    first[:] = 0  # what comes back is no view of anything
    np.testing.assert_array_equal(forward(ids, params, config), first_copy)
    assert first_copy.dtype == dtype
    assert_equal_trees(params, params_of(config, dtype))


def test_what_forward_returns_shares_no_memory_with_the_parameters():
    # Even where there is nothing to compute: one token, and a head that is the identity.
    params = params_of(SMALL)
    seen = traced([1], params, SMALL)
    for path, leaf in leaves(params):
        for name, x in seen.items():
            assert not np.shares_memory(leaf, x), (path, name)


def test_numgpt_forward_is_the_forward_of_model():
    assert numgpt.forward is forward


# --- interruption


class Interrupt(BaseException):
    """As KeyboardInterrupt, it is no Exception."""


def interrupted_at(stop):
    def record(name, x):
        if name == stop:
            raise Interrupt
        return x

    return record


def assert_an_interruption_leaves_no_trace(stop):
    params, cache = params_of(SMALL), KVCache(SMALL, np.float64)
    first, second = ids_of(SMALL, 4, 1), ids_of(SMALL, 3, 2)
    forward(first, params, SMALL, cache=cache)
    k, v = cache.k[:, :, :4].copy(), cache.v[:, :, :4].copy()
    with pytest.raises(Interrupt):
        forward([*second, 7], params, SMALL, cache=cache, record=interrupted_at(stop))
    assert len(cache) == 4
    np.testing.assert_array_equal(cache.k[:, :, :4], k)
    np.testing.assert_array_equal(cache.v[:, :, :4], v)
    undisturbed = KVCache(SMALL, np.float64)
    forward(first, params, SMALL, cache=undisturbed)
    expected = forward(second, params, SMALL, cache=undisturbed)
    np.testing.assert_array_equal(forward(second, params, SMALL, cache=cache), expected)
    assert len(cache) == 7


NAMES = list(trace_shapes(SMALL, 1))


@pytest.mark.parametrize("stop", NAMES)
def test_a_pass_that_is_interrupted_leaves_the_cache_as_it_was(stop):
    assert_an_interruption_leaves_no_trace(stop)


# --- what is refused, and how

RANGE = "expected 0 to 22, the vocabulary of this model"
BAD_IDS = {
    "a negative one": ([3, -1], rf"^ids\[1\] is -1, {RANGE}$"),
    "one past the end": ([3, 4, 23, 99], rf"^ids\[2\] is 23, {RANGE}$"),
    "a negative in an array": (np.array([-23]), rf"^ids\[0\] is -23, {RANGE}$"),
    "a wrapped unsigned": (np.array([2**64 - 1], np.uint64), rf"^ids\[0\] is 18446744073709551615, {RANGE}$"),
    "beyond int64": ([1, 2**63], rf"^ids\[1\] is .*, {RANGE}$"),
    "beyond any integer of NumPy": ([1, 10**30], rf"^ids\[1\] is {10**30}, {RANGE}$"),
    "far below": ([-(10**30)], rf"^ids\[0\] is -{10**30}, {RANGE}$"),
    "none": ([], r"^ids: empty; expected one or more \(to start from nothing, give the end-of-text id\)$"),
    "none, as an array": (np.array([]), r"^ids: empty; expected one or more"),
    "a batch": ([[1, 2], [3, 4]], r"^ids: expected a flat list of ids, got 2 axes; run one sequence at a time$"),
    "a batch of different lengths": ([[1, 2], [3]], r"^ids: expected a flat list of ids, got 2 axes"),
    "a batch of nothing": ([[]], r"^ids: expected a flat list of ids, got 2 axes"),
    "a number": (5, r"^ids: got int, expected a list or an array of ids$"),
    "nothing at all": (None, r"^ids: got NoneType, expected a list or an array of ids$"),
    "text": ("Once upon a time", r"^ids: got text, expected ids: encode it first"),
    "words": (["Once", "upon"], r"^ids: expected integers, got <U4$"),
    "digits": (["1", "2"], r"^ids: expected integers, got <U1$"),
    "floats": ([1.0, 2.0], r"^ids: expected integers, got float64$"),
    "float32": (np.array([1, 2], np.float32), r"^ids: expected integers, got float32$"),
    "an integer and a float": ([1, 2.5], r"^ids: expected integers, got float64$"),
    "NaN": ([math.nan], r"^ids: expected integers, got float64$"),
    "bools": ([True, False], r"^ids: expected integers, got bool$"),
    "a mask": (np.array([True]), r"^ids: expected integers, got bool$"),
    "objects": ([1, None], r"^ids: expected integers, got object$"),
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("ids", "message"), BAD_IDS.values(), ids=BAD_IDS.keys())
def test_ids_that_are_none_are_refused_by_name(ids, message, cached):
    cache = KVCache(SMALL, np.float64) if cached else None
    with pytest.raises(TokenError, match=message):
        forward(ids, params_of(SMALL), SMALL, cache=cache)
    assert not cached or len(cache) == 0


def test_the_first_and_the_last_id_of_the_vocabulary_are_in_it():
    assert check_ids([0, 22], SMALL.n_vocab).tolist() == [0, 22]
    assert check_ids(np.array([22], np.uint8), SMALL.n_vocab).dtype == np.intp


def test_check_ids_returns_a_copy():
    ids = np.array([1, 2])
    check_ids(ids, SMALL.n_vocab)[0] = 9
    assert ids.tolist() == [1, 2]


def test_a_text_may_fill_the_context_and_no_more():
    params = params_of(SMALL)
    assert forward([1] * 12, params, SMALL).shape == (12, 23)
    with pytest.raises(ContextError, match=r"^13 tokens, but the context of this model is 12: shorten the text$"):
        forward([1] * 13, params, SMALL)


def test_what_the_cache_holds_counts_towards_the_context():
    params, cache = params_of(SMALL), KVCache(SMALL, np.float64)
    forward([1] * 9, params, SMALL, cache=cache)
    with pytest.raises(ContextError, match=r"^13 tokens, but the context of this model is 12"):
        forward([1] * 4, params, SMALL, cache=cache)
    assert len(cache) == 9
    forward([1] * 3, params, SMALL, cache=cache)
    with pytest.raises(ContextError, match=r"^13 tokens, but the context of this model is 12"):
        forward([1], params, SMALL, cache=cache)


@pytest.mark.parametrize(
    ("changed", "made_for"),
    [
        ({"n_layer": 3}, r"\(3, 3, 12, 4\) float64"),
        ({"n_head": 2}, r"\(2, 2, 12, 6\) float64"),
        ({"n_ctx": 13}, r"\(2, 3, 13, 4\) float64"),
        ({"n_embd": 15}, r"\(2, 3, 12, 5\) float64"),
    ],
)
def test_a_cache_of_another_model_is_refused(changed, made_for):
    cache = KVCache(SMALL._replace(**changed), np.float64)
    message = rf"^cache: made for {made_for}, but this model needs \(2, 3, 12, 4\) float64 \(layers, heads, context, "
    with pytest.raises(OptionError, match=message):
        forward([1], params_of(SMALL), SMALL, cache=cache)
    assert len(cache) == 0


@pytest.mark.parametrize(("of_cache", "of_params"), [("float32", "float64"), ("float64", "float32")])
def test_a_cache_of_another_dtype_is_refused_with_the_remedy(of_cache, of_params):
    remedy = r"KVCache\(config, dtype=params\['wte'\]\.dtype\), or np\.float16$"
    message = rf"^cache: made for \(2, 3, 12, 4\) {of_cache}, .* needs \(2, 3, 12, 4\) {of_params} .*: {remedy}"
    with pytest.raises(OptionError, match=message):
        forward([1], params_of(SMALL, of_params), SMALL, cache=KVCache(SMALL, of_cache))


def test_a_cache_with_room_for_less_is_filled_and_not_beyond():
    params, cache = params_of(SMALL), KVCache(SMALL, np.float64, positions=5)
    ids = ids_of(SMALL, 5)
    assert_close(forward(ids[:3], params, SMALL, cache=cache), forward(ids[:3], params, SMALL))
    with pytest.raises(
        ContextError, match=r"^6 tokens, but the cache was made for 5: KVCache\(config, positions=\.\.\."
    ):
        forward([1, 2, 3], params, SMALL, cache=cache)
    assert_close(forward(ids[3:], params, SMALL, cache=cache), forward(ids, params, SMALL)[3:])
    assert len(cache) == 5


def rounding(name, x):
    """Record that does to keys and values what a cache of float16 does, without one."""
    return x.astype(np.float16).astype(x.dtype) if name.endswith((".k", ".v")) else x


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_a_cache_of_float16_is_keys_and_values_that_are_rounded_however_a_text_is_cut(lengths):
    T = min(sum(lengths), SMALL.n_ctx)
    params, cache, ids = params_of(SMALL), KVCache(SMALL, np.float16), ids_of(SMALL, T)
    parts = [forward(part, params, SMALL, cache=cache) for part in np.split(ids, np.cumsum(lengths)) if len(part)]
    rounded = forward(ids, params, SMALL, record=rounding)
    assert_close(np.concatenate(parts), rounded)
    exact = forward(ids, params, SMALL)
    assert 0 < abs(rounded - exact).max() <= 2**-11 * 16 * abs(exact).max()


@pytest.mark.parametrize("n", [-1, -12])
def test_a_negative_number_of_logits_is_refused_before_anything_is_done(n):
    cache = KVCache(SMALL, np.float64)
    with pytest.raises(OptionError, match=rf"^logits_to_keep is {n}, expected 0 \(all\) or more$"):
        forward([1], params_of(SMALL), SMALL, cache=cache, logits_to_keep=n)
    assert len(cache) == 0

"""The logit lens and the parts of a logit, against the trace in float64 and by hand."""

import math

import numpy as np
import pytest
from support.pages import exact, small

from numgpt.errors import CheckpointError
from numgpt.model import Model, output_head
from numgpt.pages.lens import names_of_parts, parts_of_logits, read_stream

IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
NEXT = np.array([*IDS[1:], 8])
MODELS = {
    "tied": small(),
    "untied": small(tie_word_embeddings=False, seed=2),
    "padded": small(n_tokens=60, seed=3),
    "of another epsilon": small(layer_norm_epsilon=0.5, seed=4),
}


def stream_of(model, ids=IDS):
    """Return the residual stream behind each step."""
    traced = exact(ids, model, ["embed", "resid_mid", "resid_post"])
    return list(traced.values())


def logits_of(x, model):
    """Read a vector of the stream as if it were the last, a number at a time."""
    mean = math.fsum(x) / len(x)
    deviation = math.sqrt(math.fsum((x - mean) ** 2) / len(x) + model.config.layer_norm_epsilon)
    g, b = model.params["ln_f"]["g"], model.params["ln_f"]["b"]
    normed = [float(g[i]) * (x[i] - mean) / deviation + float(b[i]) for i in range(len(x))]
    return np.array([math.fsum(row * normed) for row in output_head(model.params).astype(float)])


@pytest.mark.parametrize("name", MODELS)
def test_each_depth_is_read_as_if_it_were_the_last(name):
    model = MODELS[name]
    streams = stream_of(model)
    found = read_stream(streams, NEXT, model)
    assert found.best.shape == (2 * model.config.n_layer + 1, len(IDS))
    for depth, stream in enumerate(streams):
        for t, x in enumerate(stream):
            logits = logits_of(x, model)
            log_total = np.logaddexp.reduce(logits)
            known = logits[: model.config.n_tokens]
            likeliest_first = sorted(range(len(known)), key=lambda i: -known[i])
            assert found.best[depth, t] == likeliest_first[0]
            assert found.p_best[depth, t] == pytest.approx(math.exp(max(known) - log_total), rel=1e-9)
            assert found.rank[depth, t] == 1 + likeliest_first.index(NEXT[t])
            assert found.p_next[depth, t] == pytest.approx(math.exp(logits[NEXT[t]] - log_total), rel=1e-9)


def test_the_last_depth_is_the_answer_of_the_model():
    model = MODELS["untied"]
    logits = exact(IDS, model, "logits")["logits"]
    found = read_stream(stream_of(model), NEXT, model)
    assert found.best[-1].tolist() == logits.argmax(axis=1).tolist()
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(found.p_next[-1], p[np.arange(len(IDS)), NEXT], rtol=1e-12)


def test_a_text_of_more_rows_than_are_in_memory_at_a_time_is_read_alike(monkeypatch):
    model = MODELS["tied"]
    at_once = read_stream(stream_of(model), NEXT, model)
    monkeypatch.setattr("numgpt.pages.lens.ROWS", 4)
    for whole, in_parts in zip(at_once, read_stream(stream_of(model), NEXT, model), strict=True):
        np.testing.assert_allclose(whole, in_parts, rtol=1e-12)


def test_a_model_in_float32_is_read_as_well():
    model = small(np.float32)
    wide = read_stream(stream_of(model), NEXT, small(np.float64))
    for found, expected in zip(read_stream(stream_of(model), NEXT, model), wide, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(wrong):
    model = MODELS["untied"]
    head = model.params["lm_head"].copy()
    head[NEXT[0]] = wrong
    damaged = model._replace(params={**model.params, "lm_head": head})
    with np.errstate(all="ignore"), pytest.raises(CheckpointError, match="the logits are not finite"):
        read_stream(stream_of(model), NEXT, damaged)


def test_padding_that_outweighs_all_tokens_leaves_them_no_probability():
    model = small(np.float32, n_tokens=60, tie_word_embeddings=False)
    params = {**model.params, "lm_head": model.params["lm_head"].copy()}
    params["ln_f"] = {"g": np.ones(12, np.float32), "b": np.full(12, 100, np.float32)}
    params["lm_head"][60:] = 1  # a logit of 1200, beyond exp in float32
    with np.errstate(over="ignore"):
        found = read_stream(stream_of(model), NEXT, model._replace(params=params))
    assert found.best.max() < 60
    assert not found.p_best.any()
    assert not found.p_next.any()


# ---- the parts of a logit


def parts_of(model, ids=IDS, n=4):
    """Return some targets of each position, and what each part added to their logits."""
    traced = exact(ids, model)
    layers = range(model.config.n_layer)
    z, mlp_out = ([traced[f"h.{i}.{name}"] for i in layers] for name in ("attn.z", "mlp_out"))
    targets = np.random.default_rng(5).integers(0, model.config.n_vocab, (len(ids), n))
    return targets, parts_of_logits(ids, targets, z, mlp_out, traced[f"h.{layers[-1]}.resid_post"], model)


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_sum_to_the_logit(name):
    model = MODELS[name]
    targets, parts = parts_of(model)
    logits = exact(IDS, model, "logits")["logits"]
    expected = np.take_along_axis(logits, targets, axis=1)
    np.testing.assert_allclose(parts.sum(axis=-1), expected, rtol=0, atol=1e-9)


def added_to_the_stream(model, t):
    """Return name -> the vector that a part adds to the stream of a token."""
    params, config, traced = model.params, model.config, exact(IDS, model)
    D = config.head_size
    found = {"wte": params["wte"][IDS[t]], "wpe": params["wpe"][t]}
    for layer, p in enumerate(params["h"]):
        for head in range(config.n_head):
            rows = p["attn"]["c_proj"]["w"][head * D : (head + 1) * D]
            found[f"h.{layer}.attn.z:{head}"] = traced[f"h.{layer}.attn.z"][head, t] @ rows
        found[f"h.{layer}.attn.c_proj.b"] = p["attn"]["c_proj"]["b"]
        found[f"h.{layer}.mlp_out"] = traced[f"h.{layer}.mlp_out"][t]
    return found, traced[f"h.{layer}.resid_post"][t]


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_a_part_is_what_the_logit_lacks_without_it_under_the_same_deviation(name):
    model, t = MODELS[name], 7
    targets, parts = parts_of(model)
    added, x = added_to_the_stream(model, t)
    np.testing.assert_allclose(sum(added.values()), x, atol=1e-12)
    deviation = math.sqrt(x.var() + model.config.layer_norm_epsilon)
    g, b, head = model.params["ln_f"]["g"], model.params["ln_f"]["b"], output_head(model.params)

    def logits(x):
        return head[targets[t]] @ (g * (x - x.mean()) / deviation + b)

    lacking = {part: logits(x) - logits(x - vector) for part, vector in added.items()}
    lacking["ln_f.b"] = head[targets[t]] @ b
    assert list(lacking) == names_of_parts(model.config)
    np.testing.assert_allclose(parts[t].T, list(lacking.values()), rtol=0, atol=1e-11)


def test_parts_worked_by_hand():
    # The stream [3, 1] has mean 2 and deviation 1. A vector [p, q] adds (p - q) / 2 to the logit of the row [1, 0].
    model = small(n_vocab=2, n_ctx=1, n_embd=2, n_head=2, n_layer=1, layer_norm_epsilon=0.0)
    params = {**model.params, "wte": np.eye(2), "wpe": np.array([[0.0, 1.0]])}
    params["ln_f"] = {"g": np.array([1.0, 1.0]), "b": np.array([0.125, 9.0])}
    c_proj = {"w": np.array([[1.0, 0.0], [0.0, 0.5]]), "b": np.array([0.5, 0.0])}
    params["h"] = [{**params["h"][0], "attn": {**params["h"][0]["attn"], "c_proj": c_proj}}]
    z = np.array([[[2.0]], [[1.0]]])  # of the two heads, each of one feature
    mlp_out = np.array([[-0.5, -0.5]])
    x = np.array([[3.0, 1.0]])  # [1, 0] + [0, 1] + 2 [1, 0] + 1 [0, 0.5] + [0.5, 0] + mlp_out
    model = Model(model.config, params, None)
    parts = parts_of_logits(np.array([0]), np.array([[0, 1]]), [z], [mlp_out], x, model)
    assert parts[0, 0].tolist() == [0.5, -0.5, 1, -0.25, 0.25, 0, 0.125]
    assert parts[0, 1].tolist() == [-0.5, 0.5, -1, 0.25, -0.25, 0, 9]

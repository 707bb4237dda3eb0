"""numgpt against Hugging Face transformers, live: random models over all that numgpt covers, saved, loaded and run.

Truth is always transformers in float64. numgpt in float64 may differ from it by FLOAT64 times the largest value (or
times 1, where that is less). numgpt in float32 may differ by FLOAT32 times what PyTorch's own float32 does, or by that
many roundings of the largest value, where PyTorch was lucky. tests/test_reference.py, without torch, says more on both.
"""

import importlib.util
import inspect
import itertools
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from support.sampling import process
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model
from transformers.activations import ACT2FN
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import numgpt
from numgpt import ops, sampling
from numgpt.checkpoint.names import hub_name
from numgpt.decoding.controls import Sampling, repetition_penalty
from numgpt.params import leaves

ROOT = pathlib.Path(__file__).parents[2]
FLOAT64 = 1e-12
FLOAT32 = 8.0
DTYPES = {"float32": torch.float32, "float64": torch.float64}
# What Transformers calls its cache: since 5.24 by the first name, before by the other.
CACHE = "cache" if "cache" in inspect.signature(GPT2LMHeadModel.forward).parameters else "past_key_values"
ACTIVATIONS = ["gelu_new", "gelu", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"]

# Weights at which every part of a model does something, as in the dumps.
spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tests" / "reference" / "make_reference.py")
make_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_reference)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def random_config(seed):
    """Return settings of GPT2Config: a point in the space that numgpt covers. Activations come round in turn."""
    draw = np.random.default_rng(seed)
    n_head = int(draw.integers(1, 6))
    n_embd = n_head * int(draw.integers(1, 12))
    n_vocab = int(draw.integers(2, 90))
    return {
        "activation_function": ACTIVATIONS[seed % len(ACTIVATIONS)],
        "vocab_size": n_vocab,
        "n_positions": int(draw.integers(1, 40)),
        "n_embd": n_embd,
        "n_head": n_head,
        "n_layer": int(draw.integers(1, 5)),
        "n_inner": int(draw.integers(1, 5 * n_embd)) if draw.random() < 0.4 else None,
        "layer_norm_epsilon": float(draw.choice([1e-5, 1e-12, 1e-3, 0.1])),
        "scale_attn_weights": bool(draw.random() < 0.7),
        "scale_attn_by_inverse_layer_idx": bool(draw.random() < 0.4),
        "tie_word_embeddings": bool(draw.random() < 0.6),
        "bos_token_id": n_vocab - 1,
        "eos_token_id": n_vocab - 1,
    }


def random_model(seed, **settings):
    """Return a float32 model of transformers with settings of its own where none are given, and wide weights."""
    config = GPT2Config(**{**random_config(seed), **settings}, attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval()
    make_reference.spread(model, np.random.default_rng(seed))
    return model


def random_ids(model, seed, T=None):
    config, draw = model.config, np.random.default_rng(seed)
    T = int(draw.integers(1, config.n_positions + 1)) if T is None else T
    return draw.integers(config.vocab_size, size=T)


def random_splits(T, seed):
    """Return the bounds of parts in which T ids are given to a cache: often a prefill and single steps."""
    draw = np.random.default_rng(seed)
    cuts = draw.integers(1, T, size=draw.integers(1, 4)) if T > 1 else []
    if T > 1 and draw.random() < 0.5:
        cuts = range(int(draw.integers(1, T)), T)
    return sorted({0, *map(int, cuts), T})


@torch.inference_mode()
def torch_logits(model, ids, dtype="float64"):
    """Return the logits [T, V] of transformers. The model is left in `dtype`."""
    return model.to(DTYPES[dtype])(torch.as_tensor(ids)[None]).logits[0].numpy()


@torch.inference_mode()
def torch_cached_logits(model, ids, bounds):
    """Return the logits [T, V] of transformers, computed in parts with its cache, in the dtype of the model."""
    cache, parts = None, []
    for a, b in itertools.pairwise(bounds):
        out = model(torch.as_tensor(ids[a:b])[None], **{CACHE: cache}, use_cache=True)
        cache = out[CACHE]
        parts.append(out.logits[0].numpy())
    return np.concatenate(parts)


def numgpt_cached_logits(model, ids, bounds):
    """Return the logits [T, V] of numgpt, computed in parts with its cache."""
    cache = numgpt.KVCache(model.config, dtype=model.params["wte"].dtype)
    parts = [numgpt.forward(ids[a:b], model.params, model.config, cache=cache) for a, b in itertools.pairwise(bounds)]
    assert len(cache) == len(ids)
    return np.concatenate(parts)


def assert_close(ours, truth, float32=None):
    """Hold our tensor to the float64 one of torch; `float32` is torch's float32, needed where ours is float32."""
    assert ours.shape == truth.shape
    assert truth.dtype == np.float64
    gap, size = np.abs(ours - truth).max(), np.abs(truth).max()
    if ours.dtype == np.float64:
        limit = FLOAT64 * max(1.0, size)
    else:
        assert ours.dtype == float32.dtype == np.float32
        limit = FLOAT32 * max(np.abs(float32 - truth).max(), np.finfo(np.float32).eps * size)
    assert gap <= limit, f"max |difference| {gap:.3g}, allowed {limit:.3g}, largest value {size:.3g}"


def assert_same_weights(params, model):
    """The parameter tree holds, bit for bit, the parameters of a model of transformers, and no others."""
    state = {name.removeprefix("transformer."): x for name, x in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    tree = {hub_name(path): x for path, x in leaves(params)}
    assert set(tree) == set(state)
    for name, x in tree.items():
        assert x.dtype.name == str(state[name].dtype).removeprefix("torch."), name
        assert x.tobytes() == state[name].numpy().tobytes(), name


# Models


@pytest.mark.parametrize("seed", range(42))
def test_random_models_have_the_same_logits(seed, tmp_path):
    """Saved in float32 or float64, whole or in shards; loaded in both; at once and in parts with a cache."""
    model = random_model(seed)
    saved = "float64" if seed % 3 == 0 else "float32"
    model.to(DTYPES[saved]).save_pretrained(tmp_path, max_shard_size=3000 if seed % 4 == 0 else "5GB")

    ids = random_ids(model, seed)
    loaded = numgpt.load(tmp_path)
    assert_same_weights(loaded.params, model)
    truth, float32 = torch_logits(model, ids, "float64"), torch_logits(model, ids, "float32")
    bounds = random_splits(len(ids), seed)
    truth_cached = torch_cached_logits(model.to(torch.float64), ids, bounds)
    for dtype in DTYPES:
        ours = numgpt.load(tmp_path, dtype=dtype)
        logits = numgpt.forward(ids, ours.params, ours.config)
        cached = numgpt_cached_logits(ours, ids, bounds)
        assert logits.dtype == cached.dtype == dtype
        assert_close(logits, truth, float32)
        assert_close(cached, truth, float32)
        assert_close(cached, truth_cached, float32)
        kept = 1 + seed % len(ids)
        last = numgpt.forward(ids, ours.params, ours.config, logits_to_keep=kept)
        assert_close(last, truth[-kept:], float32[-kept:])


def test_the_random_models_cover_the_space():
    """A guard for the test above: each switch and each activation is met in both states."""
    configs = [random_config(seed) for seed in range(42)]
    for key in "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings":
        assert {c[key] for c in configs} == {True, False}
    assert {c["activation_function"] for c in configs} == set(ACTIVATIONS) == set(ops.ACTIVATIONS)
    assert len({c["layer_norm_epsilon"] for c in configs}) == 4
    widths = [(c["n_inner"] or 4 * c["n_embd"]) / (4 * c["n_embd"]) for c in configs]
    assert min(widths) < 1 < max(widths)
    assert {1, 2, 3, 4} == {c["n_layer"] for c in configs}


def test_a_model_of_the_size_of_gpt2_has_the_same_logits(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager")).eval()
    make_reference.spread(model, np.random.default_rng(0))
    model.save_pretrained(tmp_path)
    try:
        ours = numgpt.load(tmp_path)
        assert_same_weights(ours.params, model)
    finally:
        shutil.rmtree(tmp_path)  # half a gigabyte
    ids = random_ids(model, seed=0, T=24)
    float32 = torch_logits(model, ids, "float32")
    truth = torch_logits(model, ids, "float64")
    assert_close(numgpt.forward(ids, ours.params, ours.config), truth, float32)
    assert_close(numgpt_cached_logits(ours, ids, [0, 20, 21, 22, 23, 24]), truth, float32)


# Files


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
def test_half_precision_is_widened_exactly(dtype, tie, tmp_path):
    model = random_model(seed=3, tie_word_embeddings=tie, n_positions=12)
    model.to(dtype).save_pretrained(tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {x.dtype for x in stored.values()} == {dtype}

    model = model.to(torch.float32)  # widened by torch
    ours = numgpt.load(tmp_path)
    assert_same_weights(ours.params, model)
    ids = random_ids(model, seed=3, T=12)
    float32 = torch_logits(model, ids, "float32")
    assert_close(numgpt.forward(ids, ours.params, ours.config), torch_logits(model, ids, "float64"), float32)


def test_files_of_gpt2model_have_no_prefix_and_those_of_the_language_model_have_one(tmp_path):
    model = random_model(seed=5, tie_word_embeddings=True, n_positions=10)
    model.save_pretrained(tmp_path / "head")
    bare = GPT2Model(model.config).eval()
    bare.load_state_dict(model.transformer.state_dict())
    bare.save_pretrained(tmp_path / "bare")
    named = {x: set(safetensors.torch.load_file(tmp_path / x / "model.safetensors")) for x in ("head", "bare")}
    assert all(name.startswith("transformer.") for name in named["head"])
    assert named["bare"] == {name.removeprefix("transformer.") for name in named["head"]}

    ids = random_ids(model, seed=5, T=10)
    truth, float32 = torch_logits(model, ids, "float64"), torch_logits(model, ids, "float32")
    for folder in named:
        ours = numgpt.load(tmp_path / folder)
        assert_same_weights(ours.params, model)
        assert_close(numgpt.forward(ids, ours.params, ours.config), truth, float32)
        back = GPT2LMHeadModel.from_pretrained(tmp_path / folder, attn_implementation="eager").eval()
        assert np.array_equal(torch_logits(back, ids, "float32"), float32)


def save_with_head(folder, tie, change):
    """Save a random model, let `change` edit its tensors; return what transformers reads back, and its report."""
    model = random_model(seed=9, tie_word_embeddings=tie, n_positions=10, scale_attn_weights=True)
    model.save_pretrained(folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)


def add_other_head(tensors):
    wte = tensors["transformer.wte.weight"]
    tensors["lm_head.weight"] = torch.randn(wte.shape, generator=torch.Generator().manual_seed(0))


def add_copy_as_head(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()


def add_masks(tensors):
    n_ctx = len(tensors["transformer.wpe.weight"])
    for name in [name for name in tensors if name.endswith("attn.c_attn.bias")]:
        tensors[name.replace("c_attn.bias", "bias")] = torch.ones(n_ctx, n_ctx).tril()[None, None]
        tensors[name.replace("c_attn.bias", "masked_bias")] = torch.tensor(-1e4)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("change", [add_other_head, add_copy_as_head, add_masks])
def test_what_is_stored_beside_the_parameters_counts_as_in_transformers(change, tie, tmp_path):
    """A head that is not wte is used even where the config says that the two are tied; masks are passed over."""
    model, _ = save_with_head(tmp_path, tie, change)
    ids = random_ids(model, seed=1, T=10)
    ours = numgpt.load(tmp_path)
    truth, float32 = torch_logits(model.eval(), ids, "float64"), torch_logits(model, ids, "float32")
    assert_close(numgpt.forward(ids, ours.params, ours.config), truth, float32)


def test_a_missing_head_is_refused_where_transformers_makes_one_up(tmp_path):
    _, report = save_with_head(tmp_path, tie=False, change=lambda tensors: tensors.pop("lm_head.weight"))
    assert report["missing_keys"] == {"lm_head.weight"}
    with pytest.raises(numgpt.CheckpointError, match="missing: lm_head"):
        numgpt.load(tmp_path)


# Generation


def greedy(model, ids, n, **options):
    """Return the new ids of transformers' greedy decoding, less the end-of-text at the end."""
    out = model.generate(
        torch.as_tensor(ids)[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=n,
        do_sample=False,
        pad_token_id=model.config.eos_token_id,
        **options,
    )
    new = out[0, len(ids) :].tolist()
    return new[:-1] if new[-1] == model.config.eos_token_id else new


def margin(model, ids, n_prompt, penalty=1.0):
    """Return by how much, at the least, each new id was ahead of the next best one, in transformers' float64."""
    logits = torch_logits(model, ids, "float64")
    gaps = []
    for t in range(n_prompt, len(ids)):
        row = torch.as_tensor(logits[t - 1])[None]
        if penalty != 1:
            row = RepetitionPenaltyLogitsProcessor(penalty)(torch.as_tensor(ids[:t])[None], row)
        best = torch.topk(row[0], 2).values
        gaps.append(float(best[0] - best[1]))
    return min(gaps, default=np.inf)


@pytest.mark.parametrize("penalty", [1.0, 1.4, 0.8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(7))
def test_greedy_ids_of_random_models(seed, dtype, penalty, tmp_path):
    model = random_model(seed, n_positions=30, vocab_size=40, eos_token_id=39, bos_token_id=39, n_layer=2)
    model.save_pretrained(tmp_path)
    ids = random_ids(model, seed, T=4)
    expected = greedy(model.to(DTYPES[dtype]), ids, 26, repetition_penalty=penalty)
    ours = numgpt.load(tmp_path, dtype=dtype)
    new = list(
        numgpt.generate(ids, ours.params, ours.config, max_new_tokens=26, temperature=0, repetition_penalty=penalty)
    )
    assert new == expected
    assert margin(model, [*ids, *new], len(ids), penalty) > 1e-4, "too close a race to be decided by float32"


STORIES = [
    [464, 1468, 2415],  # "The old woman": ids below 4095 are those of GPT-2
    [1212, 318, 257],  # "This is a"
    [50, 15, 3, 999, 4000, 17],
    [4095],
]


@pytest.fixture(scope="module")
def storyteller():
    return GPT2LMHeadModel.from_pretrained(
        ROOT / "weights" / "storyteller", dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prompt", STORIES, ids=str)
def test_greedy_ids_of_the_storyteller(prompt, dtype, penalty, storyteller):
    model = storyteller.to(DTYPES[dtype])
    expected = greedy(model, prompt, 60, repetition_penalty=penalty)
    ours = numgpt.load(ROOT / "weights" / "storyteller", dtype=dtype)
    new = list(
        numgpt.generate(prompt, ours.params, ours.config, max_new_tokens=60, temperature=0, repetition_penalty=penalty)
    )
    assert new == expected
    assert margin(model, [*prompt, *new], len(prompt), penalty) > 1e-4, "too close a race to be decided by float32"


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_the_storyteller_over_its_whole_context(dtype, storyteller):
    ids = random_ids(storyteller, seed=0, T=512)
    ours = numgpt.load(ROOT / "weights" / "storyteller", dtype=dtype)
    float32, truth = torch_logits(storyteller, ids, "float32"), torch_logits(storyteller, ids, "float64")
    assert_close(numgpt.forward(ids, ours.params, ours.config), truth, float32)
    assert_close(numgpt_cached_logits(ours, ids, [0, 500, 501, 511, 512]), truth, float32)


# Sampling


def random_logits(seed, dtype):
    draw = np.random.default_rng(seed)
    return (draw.standard_normal(int(draw.integers(1, 300))) * draw.choice([0.1, 1, 5, 30])).astype(dtype)


def apply(processor, logits, ids=()):
    return processor(torch.as_tensor(list(ids), dtype=torch.long)[None], torch.as_tensor(logits)[None])[0].numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(25))
def test_each_control_of_sampling_is_that_of_transformers(seed, dtype):
    logits, draw = random_logits(seed, dtype), np.random.default_rng(1000 + seed)
    before = logits.copy()
    k, p, T, penalty = int(draw.integers(1, 60)), *draw.uniform(0.05, 1.0, size=2).tolist(), float(draw.uniform(0.5, 2))
    ids = draw.integers(len(logits), size=int(draw.integers(1, 20)))
    assert np.array_equal(sampling.top_k(logits, k), apply(TopKLogitsWarper(k), logits))
    assert np.array_equal(sampling.top_p(logits, p), apply(TopPLogitsWarper(p), logits))
    assert np.array_equal(sampling.min_p(logits, p), apply(MinPLogitsWarper(p), logits))
    np.testing.assert_allclose(
        repetition_penalty(logits, ids, penalty),
        apply(RepetitionPenaltyLogitsProcessor(penalty), logits, ids),
        rtol=2 * np.finfo(dtype).eps,
    )
    # Ours is shifted to have its largest logit at 0, which changes no probability.
    theirs = apply(TemperatureLogitsWarper(T), logits)
    shifted = sampling.temperature(logits, T)
    np.testing.assert_allclose(shifted, theirs - theirs.max(), atol=4 * np.finfo(dtype).eps * np.abs(theirs).max())
    assert np.array_equal(logits, before), "an argument was modified"


def test_equal_logits_at_the_edge_of_top_k_stay_as_in_transformers():
    logits = np.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0], dtype=np.float32)
    for k in range(1, 8):
        assert np.array_equal(sampling.top_k(logits, k), apply(TopKLogitsWarper(k), logits))


@pytest.mark.parametrize("seed", range(20))
def test_all_controls_together_are_those_of_generate(seed):
    """What transformers' `generate` hands to its draw is what `process` returns: same order, same tokens left."""
    model = random_model(seed, n_positions=20, vocab_size=80, eos_token_id=79, bos_token_id=79).to(torch.float64)
    draw = np.random.default_rng(seed)
    ids = random_ids(model, seed, T=12)
    options = {
        "temperature": float(draw.choice([1.0, 0.7, 1.8])),
        "top_k": int(draw.choice([0, 5, 30])),
        "top_p": float(draw.choice([1.0, 0.9, 0.5])),
        "min_p": float(draw.choice([0.0, 0.02, 0.3])),
        "repetition_penalty": float(draw.choice([1.0, 1.3])),
    }
    out = model.generate(
        torch.as_tensor(ids)[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=1,
        do_sample=True,
        pad_token_id=79,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    theirs = ops.softmax(out.scores[0][0].double().numpy())
    logits = out.logits[0][0].numpy()
    ours = ops.softmax(process(logits.astype(np.float64), ids, Sampling(**options)))
    assert np.array_equal(ours > 0, theirs > 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4 if logits.dtype == np.float32 else 1e-10)


# Edges of the numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_all_magnitudes(name, dtype):
    """From the smallest denormal to a quarter of the largest number (at half of it, torch has inf for exact GELU)."""
    info = np.finfo(dtype)
    powers = 2.0 ** np.arange(np.log2(info.smallest_subnormal), np.log2(info.max) - 2, 0.25)
    x = np.concatenate([powers, np.linspace(0.01, 20, 4001), [0.0]]).astype(dtype)
    x = np.concatenate([x, -x])
    ours = np.empty_like(x)
    usual = np.abs(x) < 1e12
    ours[usual] = ops.ACTIVATIONS[name](x[usual])  # without a warning
    with np.errstate(over="ignore"):  # the cube inside the tanh overflows, and tanh is 1 all the same
        ours[~usual] = ops.ACTIVATIONS[name](x[~usual])
    theirs = ACT2FN[name](torch.from_numpy(x)).numpy()
    assert ops.ACTIVATIONS[name](x[usual]).dtype == dtype
    assert np.isfinite(ours).all()
    # The argument of tanh and erf is rounded to eps of itself, and the result is a multiple of x.
    gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    limit = 8 * info.eps * np.abs(x.astype(np.float64)) + 2 * info.smallest_subnormal
    worst = np.argmax(gap - limit)
    assert (gap <= limit).all(), f"{name}({x[worst]}) is {ours[worst]}, torch has {theirs[worst]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_with_masked_equal_and_extreme_scores(dtype):
    big = float(np.finfo(dtype).max) / 4
    rows = np.array(
        [
            [0, 0, 0],
            [1, -np.inf, -np.inf],
            [big, big, -big],
            [-big, -big, -np.inf],
            [-1000, 0, 1000],
            [1e-40, 0, -1e-40],
        ]
    ).astype(dtype)
    theirs = torch.softmax(torch.from_numpy(rows), dim=-1).numpy()
    np.testing.assert_allclose(ops.softmax(rows), theirs, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_of_constant_tiny_and_large_vectors(dtype):
    x = [[5, 5, 5, 5], [1e-30, -1e-30, 2e-30, 0], [1e15, -1e15, 3e15, 0], [1e4, 1e4 + 1, 1e4, 1e4]]
    x, g, b = (np.array(values, dtype) for values in (x, [1, -2, 3, 0.5], [0, 1, 2, 3]))
    X, G, B = (torch.from_numpy(a).double() for a in (x, g, b))
    truth = torch.nn.functional.layer_norm(X, (4,), G, B, eps=1e-5).numpy()
    # The last row has a deviation of 1 beside a mean of 1e4: rounding grows by as much.
    np.testing.assert_allclose(ops.layer_norm(x, g, b), truth, rtol=0, atol=8e4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_extreme_size_give_no_warning_and_the_same_logits(dtype, tmp_path):
    """Scores of many thousands (softmax to exact 0 and 1), inputs of GELU of many thousands, and denormal weights."""
    model = random_model(seed=0, n_positions=12, scale_attn_weights=False, n_layer=2)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight *= 100
            block.mlp.c_fc.weight *= 1e4
            block.mlp.c_proj.weight *= 1e-40
    model.save_pretrained(tmp_path)
    ids = random_ids(model, seed=0, T=12)
    ours = numgpt.load(tmp_path, dtype=dtype)
    truth, float32 = torch_logits(model, ids, "float64"), torch_logits(model, ids, "float32")
    assert_close(numgpt.forward(ids, ours.params, ours.config), truth, float32)

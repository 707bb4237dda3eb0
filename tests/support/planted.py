"""Mistakes of ports of GPT-2, planted in the GPT-2 of broken.py by what it is given: ids, parameters, config.

Each is a row: where it was seen or how it comes about, the words that a report must have, and what makes it. Nothing
here uses numgpt but its parameter tree.
"""

import copy

import numpy as np
from support.broken import ACTIVATIONS, dump


def changed(params, change):
    """Return a copy of a parameter tree, after change(tree)."""
    params = copy.deepcopy(params)
    return change(params) or params


def in_layers(change):
    """Return a change of a parameter tree that makes another one in each of its layers."""

    def made(params):
        for p in params["h"]:
            change(p)

    return made


def biases(params, factor):
    for p in params["h"]:
        for part in p["attn"]["c_attn"], p["attn"]["c_proj"], p["mlp"]["c_fc"], p["mlp"]["c_proj"]:
            part["b"] *= factor


def gains(params, more):
    for p in [*params["h"], {"ln_f": params["ln_f"]}]:
        for name in "ln_1", "ln_2", "ln_f":
            if name in p:
                p[name]["g"] += more


def first_head_for_all(p, which, D):
    """Put the columns of head 0 in the place of those of all heads of q, k or v (0, 1, 2)."""
    for x in p["attn"]["c_attn"]["w"], p["attn"]["c_attn"]["b"]:
        C = x.shape[-1] // 3
        for start in range(which * C, (which + 1) * C, D):
            x[..., start : start + D] = x[..., which * C : which * C + D]


def in_int8(p, axis):
    for part in p["attn"]["c_attn"], p["attn"]["c_proj"], p["mlp"]["c_fc"], p["mlp"]["c_proj"]:
        largest = np.abs(part["w"]).max(axis=axis, keepdims=True)
        part["w"][...] = np.round(part["w"] * (127 / largest)) / (127 / largest)


def bfloat16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def rounded_layer(params, i):
    """Round all parameters of a layer to bfloat16."""
    p = params["h"][i]
    for part in p["ln_1"], p["ln_2"], *p["attn"].values(), *p["mlp"].values():
        for name in part:
            part[name] = bfloat16(part[name])


def tf32(x):
    """A float32 of 10 bits of mantissa: by its mantissa and exponent, not by its bits."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float32).astype(float))
    return np.ldexp(np.copysign(np.floor(np.abs(mantissa) * 2048 + 0.5), mantissa), exponent - 11)


def tf32_cut_off(x):
    mantissa, exponent = np.frexp(np.asarray(x, np.float32).astype(float))
    return np.ldexp(np.trunc(mantissa * 2048), exponent - 11)


def with_products(rounded):
    """A GPT-2 all of whose products take rounded numbers and add them up exactly; it rounds to float32 behind each."""

    def made(ids, params, config):
        seen = {}

        def times(a, b):
            return (rounded(a).astype(float) @ rounded(b).astype(float)).astype(np.float32)

        def keep(name, x):
            seen[name] = x.astype(np.float32)
            return seen[name]

        def norm(x, p):
            x = x.astype(float)
            d = x - x.mean(axis=1, keepdims=True)
            return d / np.sqrt((d**2).mean(axis=1, keepdims=True) + config.layer_norm_epsilon) * p["g"] + p["b"]

        T, H = len(ids), config.n_head
        x = keep("embed", params["wte"][ids] + params["wpe"][:T])
        for i, p in enumerate(params["h"]):
            at = f"h.{i}."
            a = keep(f"{at}ln_1", norm(x, p["ln_1"]))
            qkv = np.split(times(a, p["attn"]["c_attn"]["w"]) + p["attn"]["c_attn"]["b"], 3 * H, axis=1)
            q, k, v = (keep(f"{at}attn.{n}", np.stack(qkv[j * H : (j + 1) * H])) for j, n in enumerate("qkv"))
            scores = [times(q[h], k[h].T) / q.shape[2] ** 0.5 for h in range(H)]
            scores = keep(f"{at}attn.scores", np.where(np.triu(np.ones((T, T)), 1) > 0, -np.inf, scores))
            e = np.exp(scores.astype(float))
            w = keep(f"{at}attn.weights", e / e.sum(axis=2, keepdims=True))
            z = keep(f"{at}attn.z", np.stack([times(w[h], v[h]) for h in range(H)]))
            out = times(np.concatenate(list(z), axis=1), p["attn"]["c_proj"]["w"]) + p["attn"]["c_proj"]["b"]
            x = keep(f"{at}resid_mid", x + keep(f"{at}attn_out", out))
            b = keep(f"{at}ln_2", norm(x, p["ln_2"]))
            pre = keep(f"{at}mlp.pre", times(b, p["mlp"]["c_fc"]["w"]) + p["mlp"]["c_fc"]["b"])
            post = keep(f"{at}mlp.post", tanh_gelu(ROOT, 0.044715)(pre.astype(float)))
            out = keep(f"{at}mlp_out", times(post, p["mlp"]["c_proj"]["w"]) + p["mlp"]["c_proj"]["b"])
            x = keep(f"{at}resid_post", x + out)
        x = keep("ln_f", norm(x, params["ln_f"]))
        keep("logits", times(x, params["wte"].T))
        return seen

    return made


def with_params(change):
    return lambda ids, params, config: dump(ids, changed(params, change), config, dtype=np.float32)


def with_layers(order):
    """Run the layers of some order, such as [0, 0, 1, 1]; what a dump may show of them are those of their places."""

    def made(ids, params, config):
        L = len(params["h"])
        other = {**params, "h": [params["h"][i] for i in order(L)]}
        return {"logits": dump(ids, other, config, dtype=np.float32)["logits"]}

    return made


def with_activation(function):
    def made(ids, params, config):
        ACTIVATIONS["planted"] = function
        return dump(ids, params, config._replace(activation_function="planted"), dtype=np.float32)

    return made


def with_logits(change):
    def made(ids, params, config):
        tensors = dump(ids, params, config, dtype=np.float32)
        return {**tensors, "logits": change(tensors["logits"]).astype(np.float32)}

    return made


def swap_k_and_v_of_one(params):
    c_attn = params["h"][1]["attn"]["c_attn"]
    for x in c_attn["w"], c_attn["b"]:
        q, k, v = np.split(x.copy(), 3, axis=-1)
        x[...] = np.concatenate([q, v, k], axis=-1)


def exchange_norms(p):
    p["ln_1"], p["ln_2"] = p["ln_2"], p["ln_1"]


def no_bias_of_keys(p):
    b = p["attn"]["c_attn"]["b"]
    b[len(b) // 3 : 2 * len(b) // 3] = 0


def with_heads(which):
    def made(ids, params, config):
        size = config.head_size
        return with_params(in_layers(lambda p: first_head_for_all(p, which, size)))(ids, params, config)

    return made


def with_ids(step):
    return lambda ids, params, config: dump(
        [(i + step) % config.n_vocab for i in ids], params, config, dtype=np.float32
    )


def with_one_head(ids, params, config):
    tensors = dump(ids, params, config._replace(n_head=1), dtype=np.float32)
    return {name: x for name, x in tensors.items() if "attn." not in name}


def scale_tables(params, wte, wpe):
    """Multiply both tables as they embed; the head stays as it is."""
    head = params["wte"]
    params.update(wte=head * np.float32(wte), wpe=params["wpe"] * np.float32(wpe), lm_head=head)


def tanh_gelu(inner, cubic):
    return lambda x: x / 2 * (1 + np.tanh(inner * (x + cubic * x**3)))


RANDOM = np.random.default_rng(5)
A_BIAS, AN_ORDER = RANDOM.normal(size=31), RANDOM.permutation(31)
ROOT = (2 / np.pi) ** 0.5

# name: where it is from, what must be said, what makes it
PLANTED = {
    "biases subtracted": ("x @ w - b", "biases of matrices are subtracted", with_params(lambda p: biases(p, -1))),
    "biases twice": (
        "added by the kernel and after it",
        "biases of matrices are added twice",
        with_params(lambda p: biases(p, 2)),
    ),
    "gains + 1": (
        "Gemma's norm; huggingface/transformers#29402",
        "1 is added to the gains",
        with_params(lambda p: gains(p, 1)),
    ),
    "keys of one head": ("multi-query attention", "have the keys of the first", with_heads(1)),
    "values of one head": ("multi-query attention", "have the values of the first", with_heads(2)),
    "int8 a matrix": (
        "one scale for all",
        "rounded to int8, one scale a matrix",
        with_params(in_layers(lambda p: in_int8(p, None))),
    ),
    "int8 an input": (
        "scales of the wrong axis",
        "rounded to int8, one scale an input",
        with_params(in_layers(lambda p: in_int8(p, 1))),
    ),
    "int8 in a layer": (
        "a layer that is quantised and the others not",
        "rounded to int8, one scale an output, in layer 1 alone",
        with_params(lambda p: in_int8(p["h"][1], 0)),
    ),
    "a layer in bfloat16": (
        "a layer loaded from another file",
        "the weights are rounded to half precision (bfloat16), in layer 2 alone",
        with_params(lambda p: rounded_layer(p, 2)),
    ),
    "no biases in a layer": (
        "a layer whose biases were not copied",
        "missing bias: those of all matrices, in layer 1 alone",
        with_params(lambda p: biases({"h": [p["h"][1]]}, 0)),
    ),
    "wpe in bfloat16": (
        "a table kept apart",
        "wpe alone is rounded to half precision (bfloat16)",
        with_params(lambda p: p.update(wpe=bfloat16(p["wpe"]))),
    ),
    "no bias of keys": ("Whisper has none there", "missing bias: that of k", with_params(in_layers(no_bias_of_keys))),
    "norms exchanged": (
        "one list of all norms",
        "the parameters of ln_1 and ln_2 are exchanged",
        with_params(in_layers(exchange_norms)),
    ),
    "k and v exchanged in a layer": (
        "a converter's typing error",
        "taken as q, v, k instead of q, k, v, in layer 1 alone",
        with_params(swap_k_and_v_of_one),
    ),
    "positions doubled": (
        "added by the embedding and by the model",
        "the positions are added twice",
        with_params(lambda p: scale_tables(p, 1, 2)),
    ),
    "embedding halved": (
        "averaged with the positions",
        "the embedding is multiplied by 1/2",
        with_params(lambda p: scale_tables(p, 0.5, 0.5)),
    ),
    "embedding scaled": (
        "Vaswani et al. 3.4; tensor2tensor",
        "the token embedding is multiplied by sqrt(C)",
        with_params(lambda p: scale_tables(p, p["wte"].shape[1] ** 0.5, 1)),
    ),
    "ids one too high": ("ids that count from 1: Lua, Julia", "ids are one too high", with_ids(1)),
    "ids one too low": ("an id for padding in front", "ids are one too low", with_ids(-1)),
    "one head": ("n_head not passed on", "attention has 1 head instead of 3", with_one_head),
    "the last layer left out": (
        "range(n_layer - 1)",
        "the last layer is left out",
        with_layers(lambda L: range(L - 1)),
    ),
    "the first layer left out": (
        "layers that count from 1",
        "the first layer is left out",
        with_layers(lambda L: range(1, L)),
    ),
    "each layer twice": (
        "ALBERT",
        "each layer is applied twice",
        with_layers(lambda L: [i for i in range(L) for _ in range(2)]),
    ),
    "the next layer's parameters": (
        "an offset in the file",
        "each layer has the parameters of the next one",
        with_layers(lambda L: [*range(1, L), L - 1]),
    ),
    "layers 0 for all": (
        "a closure over the loop's variable",
        "every layer has the parameters of layer 0",
        with_layers(lambda L: [0] * L),
    ),
    "GELU without cube": ("0.044715 lost", "tanh GELU without its cubic term", with_activation(tanh_gelu(ROOT, 0))),
    "GELU with 2/pi": (
        "a root forgotten",
        "tanh GELU with 2/pi instead of its root",
        with_activation(tanh_gelu(2 / np.pi, 0.044715)),
    ),
    "GELU not halved": (
        "a factor forgotten",
        "tanh GELU that is not halved",
        with_activation(lambda x: 2 * tanh_gelu(ROOT, 0.044715)(x)),
    ),
    "squared relu": ("Primer", "squared relu", with_activation(lambda x: np.maximum(x, 0) ** 2)),
    "leaky relu": ("the paper on GPT-1's heirs", "leaky relu", with_activation(lambda x: np.where(x > 0, x, x / 100))),
    "logits halved": ("a temperature left in", "every value is 0.3 times ours", with_logits(lambda x: x * 0.3)),
    "logits centred": (
        "TransformerLens; TransformerLensOrg/TransformerLens#693",
        "each position has an offset of its own",
        with_logits(lambda x: x - x.mean(axis=1, keepdims=True)),
    ),
    "logits capped": (
        "Gemma 2",
        "a soft cap: every value x of ours is 4 tanh(x / 4)",
        with_logits(lambda x: 4 * np.tanh(x / 4)),
    ),
    "a bias of the head": (
        "a head with a bias",
        "each feature has an offset of its own",
        with_logits(lambda x: x + A_BIAS),
    ),
    "logits in reverse": (
        "a batch that was turned",
        "the positions are in another order",
        with_logits(lambda x: x[::-1]),
    ),
    "the vocabulary sorted": (
        "another order of tokens",
        "the features are in another order",
        with_logits(lambda x: x[:, AN_ORDER]),
    ),
    "TF32": (
        "torch.backends.cuda.matmul.allow_tf32, cuBLAS",
        "the products are computed in TF32: what goes into them is rounded",
        with_products(tf32),
    ),
    "TF32 cut off": (
        "a tensor core that is given float32",
        "the products are computed in TF32: what goes into them is cut off",
        with_products(tf32_cut_off),
    ),
    "bfloat16 products": (
        'torch.set_float32_matmul_precision("medium")',
        "the products are computed in bfloat16: what goes into them is rounded",
        with_products(bfloat16),
    ),
    "log-probabilities": (
        "log_softmax in the model",
        "a log-softmax was applied",
        with_logits(lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True))),
    ),
}

"""A GPT-2 of its own, with a bug where asked for: what `numgpt verify` is tested on. Nothing here uses numgpt.

It is written otherwise than numgpt: one function, heads one by one, sums by einsum. The tests hold it, without a bug,
against numgpt's own reference dumps, so that what a bug changes is known to be the bug.
"""

import math

import numpy as np

# Each bug, and the first tensor that it shows in where it is made in the first layer it can be made in.
BUGS = {
    "position offset 1": "embed",
    "position offset 2": "embed",
    "position offset -1": "embed",
    "no positions": "embed",
    "position offset 5": "embed",
    "sinusoids in turns": "embed",
    "sinusoids in halves": "embed",
    "anew from 4": "embed",
    "place 0 from 4": "embed",
    "no place from 4": "embed",
    "one up from 4": "embed",
    "one down from 4": "embed",
    "epsilon 1e-6": "ln_1",
    "epsilon 1e-12": "ln_1",
    "epsilon 1e-3": "ln_1",
    "epsilon outside": "ln_1",
    "unbiased variance": "ln_1",
    "unbiased deviation": "ln_1",
    "no mean": "ln_1",
    "post-LN": "ln_1",
    "order q v k": "attn.k",
    "order k q v": "attn.q",
    "order k v q": "attn.q",
    "order v q k": "attn.q",
    "order v k q": "attn.q",
    "by head": "attn.q",
    "transposed c_attn": "attn.q",
    "no c_attn bias": "attn.q",
    "heads [T, D, H]": "attn.q",
    "heads [D, T, H]": "attn.q",
    "heads without transpose": "attn.q",
    "rotary halves": "attn.q",
    "rotary pairs": "attn.q",
    "values are keys": "attn.v",
    "no scale": "attn.scores",
    "ALiBi": "attn.scores",
    "soft cap": "attn.scores",
    "window 6": "attn.scores",
    "blocks 3": "attn.scores",
    "forgets before 4": "attn.scores",
    "keeps none from 4": "attn.scores",
    "one row from 4": "attn.scores",
    "scale sqrt(C)": "attn.scores",
    "no inverse layer": "attn.scores",
    "mask sees next": "attn.scores",
    "mask hides self": "attn.scores",
    "no mask": "attn.scores",
    "softmax over queries": "attn.weights",
    "one more in the sum": "attn.weights",
    "merge [T, D, H]": "attn_out",
    "merge without transpose": "attn_out",
    "transposed attn.c_proj": "attn_out",
    "no attn.c_proj bias": "attn_out",
    "no residual": "resid_mid",
    "parallel": "ln_2",
    "transposed c_fc": "mlp.pre",
    "no c_fc bias": "mlp.pre",
    "erf": "mlp.post",
    "tanh": "mlp.post",
    "half table": "mlp.post",
    "relu": "mlp.post",
    "sigmoid": "mlp.post",
    "transposed mlp.c_proj": "mlp_out",
    "no mlp.c_proj bias": "mlp_out",
    "no final norm": "ln_f",
    "float16 weights": "embed",
    "bfloat16 weights": "embed",
    "float16 stream": "embed",
    "int8 by output": "attn.q",
    "logits / sqrt(C)": "logits",
    "logits moved": "logits",
}


def dump(ids, params, config, bug=None, layer=None, dtype=np.float64):
    """Run on ids [T]; return name -> tensor, in order, as numgpt names them.

    params  numgpt's tree; config: numgpt's
    bug     one of BUGS, or several of them, or None
    layer   the one layer in which it is made; None for all, and the final layer norm
    """
    bugs = {bug} if isinstance(bug, str) or bug is None else set(bug)
    T, C, H, D = len(ids), config.n_embd, config.n_head, config.n_embd // config.n_head
    seen = {}

    def on(name, at=None):
        return name in bugs and (layer is None or layer == at)

    def get(x):
        x = np.asarray(x)
        if "float16 weights" in bugs:
            x = x.astype(np.float16)
        if "bfloat16 weights" in bugs:
            bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
            x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return x.astype(dtype)

    def norm(x, p, at):
        eps = config.layer_norm_epsilon
        for number in "1e-6", "1e-12", "1e-3":
            eps = float(number) if on(f"epsilon {number}", at) else eps
        mean = 0 if on("no mean", at) else np.sum(x, axis=1, keepdims=True) / C
        unbiased = on("unbiased variance", at) or on("unbiased deviation", at)
        var = np.sum((x - mean) ** 2, axis=1, keepdims=True) / (C - 1 if unbiased else C)
        outside = on("epsilon outside", at) or on("unbiased deviation", at)
        root = var**0.5 + dtype(eps) if outside else (var + dtype(eps)) ** 0.5
        return (x - mean) / root * get(p["g"]) + get(p["b"])

    def linear(x, p, name, at):
        w, b = get(p["w"]), get(p["b"])
        if on("int8 by output", at):
            steps = np.max(np.abs(w), axis=0) / 127
            w = (np.round(w / steps) * steps).astype(dtype)
        if on(f"transposed {name}", at):
            w = w.ravel().reshape(w.shape[1], w.shape[0]).T
        y = np.einsum("ta,ab->tb", x, w)
        return y if on(f"no {name} bias", at) else y + b

    offset = next((int(name.split()[-1]) for name in bugs if name and name.startswith("position offset")), 0)
    places = (np.arange(T) + offset) % config.n_ctx
    where = get(params["wpe"])
    if bugs & {"sinusoids in turns", "sinusoids in halves"}:
        where = np.zeros((T, C))
        for t in range(T):
            for i in range(C):
                pair, odd = (i // 2, i % 2) if "sinusoids in turns" in bugs else (i % (C // 2), i >= C // 2)
                where[t, i] = (math.cos if odd else math.sin)(t / 10000 ** (2 * pair / C))
        where = where.astype(dtype)
    for t in range(4, T):
        moved = {"anew from 4": t - 4, "place 0 from 4": 0, "one up from 4": t + 1, "one down from 4": t - 1}
        places[t] = next((moved[name] for name in bugs if name in moved), places[t])
    x = get(params["wte"])[ids]
    if "no positions" not in bugs:
        added = where[places]
        if "no place from 4" in bugs:
            added[4:] = 0
        x = x + added

    def kept(x):
        return x.astype(np.float16).astype(dtype) if "float16 stream" in bugs else x

    x = seen["embed"] = kept(x)
    for i, p in enumerate(params["h"]):
        at = f"h.{i}."
        start = x
        a = seen[at + "ln_1"] = x if on("post-LN", i) else norm(x, p["ln_1"], i)

        qkv = linear(a, p["attn"]["c_attn"], "c_attn", i)
        parts = {"q": qkv[:, :C], "k": qkv[:, C : 2 * C], "v": qkv[:, 2 * C :]}
        for order in "q v k", "k q v", "k v q", "v q k", "v k q":
            if on(f"order {order}", i):
                parts = {name: qkv[:, j * C : (j + 1) * C] for j, name in enumerate(order.split())}
        if on("by head", i):
            by_head = qkv.reshape(T, H, 3, D)
            parts = {name: by_head[:, :, j].reshape(T, C) for j, name in enumerate("qkv")}
        heads = {}
        for name in "qkv":
            if on("heads [T, D, H]", i):
                split = [parts[name][:, h::H] for h in range(H)]
            elif on("heads [D, T, H]", i):
                split = [parts[name][:, d * H : (d + 1) * H] for d in range(D)]
            elif on("heads without transpose", i):
                split = list(parts[name].reshape(H, T, D))
            else:
                split = [parts[name][:, h * D : (h + 1) * D] for h in range(H)]
            heads[name] = seen[f"{at}attn.{name}"] = np.stack(split)

        if on("values are keys", i):
            heads["v"] = seen[f"{at}attn.v"] = heads["k"]
        for kind in "halves", "pairs":
            if on(f"rotary {kind}", i):
                for name in "qk":
                    heads[name] = seen[f"{at}attn.{name}"] = _rotary(heads[name], kind == "halves")

        size = heads["q"].shape[-1]
        scale = 1 / math.sqrt(size) if config.scale_attn_weights else 1.0
        scale = 1.0 if on("no scale", i) else 1 / math.sqrt(C) if on("scale sqrt(C)", i) else scale
        if config.scale_attn_by_inverse_layer_idx and not on("no inverse layer", i):
            scale /= i + 1
        reach = 1 if on("mask sees next", i) else -1 if on("mask hides self", i) else T if on("no mask", i) else 0
        visible = np.arange(T)[None, :] <= np.arange(T)[:, None] + reach
        for row in range(T):
            for key in range(row + 1):
                hides = {
                    "window 6": row - key >= 6,
                    "blocks 3": row // 3 != key // 3,
                    "forgets before 4": key < 4 <= row,
                    "keeps none from 4": 4 <= key < row,
                    "one row from 4": row >= 4 and key > row - 4,
                }
                visible[row, key] &= not any(on(name, i) and yes for name, yes in hides.items())
        scores = np.stack([np.einsum("td,sd->ts", q, k) for q, k in zip(heads["q"], heads["k"], strict=True)])
        lowest = -1e9 if on("mask hides self", i) else -np.inf  # with -inf the first position would be NaN
        scores = scores * dtype(scale)
        if on("soft cap", i):
            scores = 30 * np.tanh(scores / 30)
        if on("ALiBi", i):
            for head in range(H):
                for row in range(T):
                    scores[head, row] -= 2 ** (-8 * (head + 1) / H) * (row - np.arange(T))
        scores = seen[at + "attn.scores"] = np.where(visible, scores, dtype(lowest)).astype(dtype)
        axis = 1 if on("softmax over queries", i) else 2
        e = np.exp(scores - scores.max(axis=axis, keepdims=True))
        more = np.exp(-scores.max(axis=axis, keepdims=True)) if on("one more in the sum", i) else 0
        weights = seen[at + "attn.weights"] = (e / (e.sum(axis=axis, keepdims=True) + more)).astype(dtype)
        z = seen[at + "attn.z"] = np.stack([w @ v for w, v in zip(weights, heads["v"], strict=True)])

        if on("merge [T, D, H]", i):
            merged = np.stack(list(z), axis=-1).reshape(T, C)
        elif on("merge without transpose", i):
            merged = z.ravel().reshape(T, C)
        else:
            merged = np.concatenate(list(z), axis=1)
        out = seen[at + "attn_out"] = linear(merged, p["attn"]["c_proj"], "attn.c_proj", i)
        x = kept(out if on("no residual", i) else x + out)
        if on("post-LN", i):
            x = norm(x, p["ln_1"], i)
        seen[at + "resid_mid"] = x
        b = x if on("post-LN", i) else norm(start if on("parallel", i) else x, p["ln_2"], i)
        seen[at + "ln_2"] = b

        pre = seen[at + "mlp.pre"] = linear(b, p["mlp"]["c_fc"], "c_fc", i)
        kind = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}.get(
            config.activation_function, config.activation_function
        )
        for other in "erf", "tanh", "half table", "relu", "sigmoid":
            kind = other if on(other, i) else kind
        post = seen[at + "mlp.post"] = ACTIVATIONS[kind](pre).astype(dtype)
        out = seen[at + "mlp_out"] = linear(post, p["mlp"]["c_proj"], "mlp.c_proj", i)
        x = kept(x + out)
        x = seen[at + "resid_post"] = norm(x, p["ln_2"], i) if on("post-LN", i) else x
    x = seen["ln_f"] = x if "no final norm" in bugs else norm(x, params["ln_f"], None)
    logits = np.einsum("tc,vc->tv", x, get(params.get("lm_head", params["wte"])))
    if "logits / sqrt(C)" in bugs:
        logits = logits / dtype(math.sqrt(C))
    seen["logits"] = np.concatenate([logits[-1:], logits[:-1]]) if "logits moved" in bugs else logits
    return seen


def _rotary(x, halves):
    """Turn the pairs of each row's features by its position: with complex numbers."""
    T, D = x.shape[1:]
    n = D // 2
    first, second = (x[..., :n], x[..., n : 2 * n]) if halves else (x[..., : 2 * n : 2], x[..., 1 : 2 * n : 2])
    angles = np.array([[t / 10000 ** (2 * i / D) for i in range(n)] for t in range(T)])
    turned = (first + 1j * second) * np.exp(1j * angles)
    y = x.copy()
    if halves:
        y[..., :n], y[..., n : 2 * n] = turned.real, turned.imag
    else:
        y[..., : 2 * n : 2], y[..., 1 : 2 * n : 2] = turned.real, turned.imag
    return y


def _tanh(x):
    return x / 2 * (1 + np.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _erf(x):
    return (x / 2 * (1 + np.vectorize(math.erf, otypes=[float])(x / 2**0.5))).astype(x.dtype)


def _half_table(x):
    """As llama.cpp looks it up: a value of float16 for each input of float16, between -10 and 10."""
    looked_up = _tanh(x.astype(np.float16).astype(np.float32)).astype(np.float16).astype(x.dtype)
    return np.where(x < -10, 0, np.where(x > 10, x, looked_up))


ACTIVATIONS = {
    "tanh": _tanh,
    "erf": _erf,
    "half table": _half_table,
    "relu": lambda x: np.where(x > 0, x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: x / (1 + np.exp(-1.702 * x)),
}

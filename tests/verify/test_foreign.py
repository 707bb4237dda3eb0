"""The names and layouts of other programs."""

import numpy as np
import pytest
from support.broken import dump
from support.dumps import IDS, WORDS, check, wide

from numgpt.errors import CheckpointError
from numgpt.verify.dump import read_dump
from numgpt.verify.foreign import BEFORE_GAIN


def in_the_names_of(program, tensors, config):
    """The tensors of broken.py as other programs name and lay them out."""
    L, T = config.n_layer, len(IDS)

    def each(name):
        return np.stack([tensors[f"h.{i}.{name}"] for i in range(L)])[:, None]  # [L, B, ...]

    def flat(x):  # [..., H, T, D] -> [..., T, C]
        x = np.moveaxis(x, -3, -2)
        return x.reshape(*x.shape[:-2], -1)

    if program == "transformers":
        states = [tensors["embed"], *(tensors[f"h.{i}.resid_post"] for i in range(L - 1)), tensors["ln_f"]]
        return {f"hidden_states.{i}": x[None] for i, x in enumerate(states)} | {
            f"attentions.{i}": tensors[f"h.{i}.attn.weights"][None] for i in range(L)
        }
    if program == "TransformerLens":
        named = {"ln_final.hook_normalized": tensors["ln_f"]}
        for i in range(L):
            at, before = f"blocks.{i}.", tensors["embed"] if i == 0 else tensors[f"h.{i - 1}.resid_post"]
            named[f"{at}hook_resid_pre"] = before[None]
            for theirs, ours in {
                "ln1.hook_normalized": "ln_1",
                "attn.hook_q": "attn.q",
                "attn.hook_k": "attn.k",
                "attn.hook_v": "attn.v",
                "attn.hook_attn_scores": "attn.scores",
                "attn.hook_pattern": "attn.weights",
                "attn.hook_z": "attn.z",
                "hook_attn_out": "attn_out",
                "hook_resid_mid": "resid_mid",
                "ln2.hook_normalized": "ln_2",
                "mlp.hook_pre": "mlp.pre",
                "mlp.hook_post": "mlp.post",
                "hook_mlp_out": "mlp_out",
                "hook_resid_post": "resid_post",
            }.items():
                x = tensors[f"h.{i}.{ours}"]
                named[at + theirs] = (x.swapaxes(0, 1) if ours in ("attn.q", "attn.k", "attn.v", "attn.z") else x)[None]
        return named
    if program == "llm.c":
        q, k, v = (flat(each(f"attn.{name}")) for name in "qkv")
        scores = each("attn.scores")
        padded = np.concatenate([tensors["logits"], np.zeros((T, 5), np.float32)], axis=1)
        return {
            "encoded": tensors["embed"][None],
            "ln1": each("ln_1"),
            "ln1_mean": np.zeros((L, 1, T), np.float32),
            "qkv": np.concatenate([q, k, v], axis=-1),
            "atty": flat(each("attn.z")),
            "preatt": np.where(np.isfinite(scores), scores, 0),
            "att": each("attn.weights"),
            "attproj": each("attn_out"),
            "residual2": each("resid_mid"),
            "ln2": each("ln_2"),
            "fch": each("mlp.pre"),
            "fch_gelu": each("mlp.post"),
            "fcproj": each("mlp_out"),
            "residual3": each("resid_post"),
            "lnf": tensors["ln_f"][None],
            "logits": padded[None],
        }
    named = {"transformer.drop": tensors["embed"][None], "lm_head": tensors["logits"][None, -1:]}
    for i in range(L):
        at = f"transformer.h.{i}."
        qkv = np.concatenate([flat(tensors[f"h.{i}.attn.{name}"]) for name in "qkv"], axis=-1)
        named |= {f"{at}ln_1": tensors[f"h.{i}.ln_1"][None], f"{at}attn.c_attn": qkv[None]}
        for theirs, ours in {
            "attn.attn_dropout": "attn.weights",
            "attn.c_proj": "attn_out",
            "attn": "attn_out",
            "ln_2": "ln_2",
            "mlp.c_fc": "mlp.pre",
            "mlp.gelu": "mlp.post",
            "mlp.c_proj": "mlp_out",
        }.items():
            named[at + theirs] = tensors[f"h.{i}.{ours}"][None]
        named[f"transformer.h.{i}"] = tensors[f"h.{i}.resid_post"][None]
    return named


PROGRAMS = {"transformers": 7, "TransformerLens": 44, "llm.c": 45, "nanoGPT": 35}


@pytest.mark.parametrize(("program", "rows"), PROGRAMS.items())
def test_the_names_and_layouts_of_other_programs_are_known(program, rows):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    report = check(model, IDS, in_the_names_of(program, tensors, model.config))
    assert report.passed
    assert len(report.rows) == rows
    twice = {f"transformer.h.{i}.attn" for i in range(3)}
    expected = {"llm.c": {"ln1_mean"}, "nanoGPT": twice}
    expected["TransformerLens"] = {"blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"}
    assert set(report.not_compared) == expected.get(program, set())


@pytest.mark.parametrize("bug", ["no scale"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_bugs_are_named_in_the_dumps_of_other_programs(program, bug):
    model = wide()
    tensors = dump(IDS, model.params, model.config, bug, dtype=np.float32)
    report = check(model, IDS, in_the_names_of(program, tensors, model.config))
    assert WORDS[bug] in report.causes[0]


def test_a_mistake_behind_a_packed_qkv_is_named():
    """What c_attn returns is right, so that q, k and v, as we cut them out of it, are no evidence."""
    model = wide()
    right = dump(IDS, model.params, model.config, dtype=np.float32)
    packed = in_the_names_of("nanoGPT", right, model.config)["transformer.h.0.attn.c_attn"]
    for bug in "order k q v", "heads [T, D, H]", "heads without transpose":
        tensors = dump(IDS, model.params, model.config, bug, dtype=np.float32)
        named = {name: tensors[name] for name in ("h.0.attn.weights", "h.0.attn.z", "h.0.attn_out", "logits")}
        report = check(model, IDS, {"transformer.h.0.attn.c_attn": packed, **named})
        assert report.rows[-1].name == "h.0.attn.weights"
        assert WORDS[bug] in report.causes[0]


def test_a_layer_norm_before_gain_and_bias_is_not_compared():
    model = wide()
    x = dump(IDS, model.params, model.config, dtype=np.float32)["embed"]
    plain = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    report = check(model, IDS, {"blocks.0.ln1.hook_normalized": plain, "blocks.0.hook_resid_pre": x})
    assert report.passed
    assert [row.name for row in report.rows] == ["embed"]
    assert report.not_compared == {"blocks.0.ln1.hook_normalized": BEFORE_GAIN}


@pytest.mark.parametrize(
    ("name", "x", "why"),
    [
        ("h.0.attn.c_attn.weight", np.zeros((12, 36)), "a parameter: verify compares what a program computes"),
        ("transformer.wte", np.zeros((9, 12)), "tokens without positions: ours is in embed"),
        ("my_tensor", np.zeros((9, 11)), "no name that we know"),
        ("my_tensor", np.zeros((9, 12)), "no name that we know, and its values are none of ours"),
        ("h.3.ln_1", np.zeros((9, 12)), "layer 3, but the model has layers 0 to 2"),
        ("ln1", np.zeros((2, 1, 9, 12)), "shape (2, 1, 9, 12), expected 3 layers on the first axis"),
    ],
)
def test_what_is_not_compared_is_listed_with_the_reason(name, x, why):
    model = wide()
    embed = dump(IDS, model.params, model.config, dtype=np.float32)["embed"]
    report = check(model, IDS, {name: x, "transformer.drop": embed})
    assert report.passed
    assert report.not_compared == {name: why}


@pytest.mark.parametrize(
    ("name", "x", "at", "why"),
    [
        ("h.0.attn.q", np.zeros((5, 9, 3)), "h.0.attn.q", "shape (5, 9, 3), expected (3, 9, 4) [H, T, D]"),
        ("h.0.resid_mid", np.zeros((2, 9, 12)), "h.0.resid_mid", "shape (2, 9, 12), expected (9, 12) [T, C]"),
        ("qkv", np.zeros((3, 1, 9, 12)), "h.0.attn.q", "shape (9, 12), expected (9, 36) [T, 3C]"),
        ("logits", np.zeros((5, 31)), "logits", "shape (5, 31), expected (9, 31) [T, V]"),
    ],
)
def test_a_shape_that_can_not_be_right_is_a_difference(name, x, at, why):
    model = wide()
    embed = dump(IDS, model.params, model.config, dtype=np.float32)["embed"]
    report = check(model, IDS, {name: x, "transformer.drop": embed})
    assert not report.passed
    assert [(row.name, row.passed) for row in report.rows] == [("embed", True), (at, False)]
    assert report.causes == [why]


def test_all_that_a_bridge_of_transformer_lens_caches_is_compared_or_told():
    """The hooks of TransformerLens 4.3's TransformerBridge for GPT-2, by its source."""
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    layers, T = range(3), len(IDS)
    read = [tensors["embed"], *(tensors[f"h.{i}.resid_post"] for i in layers)]
    hooks = {
        "embed.hook_in": np.array([IDS]), "embed.hook_out": model.params["wte"][IDS],
        "pos_embed.hook_in": np.array([IDS]), "pos_embed.hook_out": model.params["wpe"][:T],
        "ln_final.hook_in": read[-1], "ln_final.hook_out": tensors["ln_f"], "ln_final.hook_scale": np.ones((T, 1)),
        "unembed.hook_in": tensors["ln_f"], "unembed.hook_out": tensors["logits"],
    }  # fmt: skip
    for i in layers:
        ours = {name.removeprefix(f"h.{i}."): x for name, x in tensors.items() if name.startswith(f"h.{i}.")}
        heads = {name: ours[f"attn.{name}"].swapaxes(0, 1) for name in "qkvz"}
        merged = np.concatenate([heads[name].reshape(T, -1) for name in "qkv"], axis=1)
        of_layer = {
            "hook_in": read[i], "hook_out": ours["resid_post"], "hook_mlp_in": ours["resid_mid"],
            "ln1.hook_in": read[i], "ln1.hook_out": ours["ln_1"], "ln1.hook_scale": np.ones((T, 1)),
            "ln2.hook_in": ours["resid_mid"], "ln2.hook_out": ours["ln_2"], "ln2.hook_scale": np.ones((T, 1)),
            "attn.hook_in": ours["ln_1"], "attn.qkv.hook_in": ours["ln_1"], "attn.qkv.hook_out": merged,
            "attn.hook_attn_scores": ours["attn.scores"], "attn.hook_pattern": ours["attn.weights"],
            "attn.o.hook_in": heads["z"], "attn.o.hook_out": ours["attn_out"], "attn.hook_out": ours["attn_out"],
            "attn.hook_hidden_states": ours["attn_out"], "mlp.hook_in": ours["ln_2"], "mlp.in.hook_in": ours["ln_2"],
            "mlp.in.hook_out": ours["mlp.pre"], "mlp.out.hook_in": ours["mlp.post"],
            "mlp.out.hook_out": ours["mlp_out"], "mlp.hook_out": ours["mlp_out"],
        }  # fmt: skip
        for x in "qkv":
            of_layer |= {f"attn.{x}.hook_in": ours["ln_1"], f"attn.{x}.hook_out": heads[x]}
        hooks |= {f"blocks.{i}.{name}": x[None] for name, x in of_layer.items()}
    report = check(model, IDS, hooks)
    assert report.passed
    assert [row.name for row in report.rows] == list(tensors)
    assert "no name that we know" not in report.not_compared.values()


@pytest.mark.parametrize("name", ["logits.npy", "whatever.npz"])
def test_one_array_of_the_shape_of_logits_is_taken_for_them(tmp_path, name):
    model = wide()
    logits = dump(IDS, model.params, model.config, "erf", dtype=np.float32)["logits"]
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, logits)
    report = check(model, IDS, read_dump(tmp_path / name).tensors)
    assert report.rows[-1].name == "logits"
    assert "erf GELU" in report.causes[0]


def test_one_array_of_another_shape_is_not_guessed(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((len(IDS), 12), np.float32))
    with pytest.raises(CheckpointError, match=r"the dump has no tensor to compare.*x: no name that we know"):
        check(wide(), IDS, read_dump(tmp_path / "x.npy").tensors)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="the file is damaged"):
        read_dump(tmp_path / "x.npy")

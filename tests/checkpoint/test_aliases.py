"""The tensors of the language model are found under every name that people give them, and nothing else is taken for it.

Each naming is written out here by hand, from the program or the book that has it, and not by the table that is tested.
"""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import hub_tensors, prefixed
from support.readers import Spy

from numgpt.checkpoint.aliases import find_own
from numgpt.errors import CheckpointError

LINEAR = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
C = 6


def own(stored):
    return find_own(Spy(stored).tensors, "x")


def expect(stored, tensors, **fields):
    found = own(stored)
    assert found.tensors.keys() == tensors.keys()
    for name, x in tensors.items():
        np.testing.assert_array_equal(found.tensors[name].read(), x, err_msg=name, strict=True)
        assert found.tensors[name].shape == x.shape
    for field, value in fields.items():
        assert getattr(found, field) == value


def linear(tensors):
    return {name: np.ascontiguousarray(x.T) if name.endswith(LINEAR) else x for name, x in tensors.items()}


def renamed(tensors, *pairs):
    for name, x in tensors.items():
        for pattern, other in pairs:
            name = re.sub(pattern, other, name)
        yield name, x


MINGPT = (  # of 2020
    (r"wte\.weight", "tok_emb.weight"),
    (r"wpe\.weight", "pos_emb"),
    (r"^h\.", "blocks."),
    (r"ln_([12])", r"ln\1"),
    (r"attn\.c_proj", "attn.proj"),
    (r"mlp\.c_fc", "mlp.0"),
    (r"mlp\.c_proj", "mlp.2"),
)
THREE = ("query", "key", "value")


def apart(tensors, names, axis):
    """Query, key and value apart."""
    found = {}
    for name, x in tensors.items():
        if ".c_attn." in name:
            parts = np.split(x, 3, axis if x.ndim == 2 else 0)
            found |= {name.replace("c_attn", each): part for each, part in zip(names, parts, strict=True)}
        else:
            found[name] = x
    return found


def mingpt(tensors):
    stored = dict(renamed(apart(linear(tensors), THREE, 0), *MINGPT))
    stored["pos_emb"] = stored["pos_emb"][None]
    stored["head.weight"] = tensors["wte.weight"]
    return stored | {f"blocks.{i}.attn.mask": np.tri(7, dtype=np.float32)[None, None] for i in range(2)}


def from_scratch(tensors):
    """The book's, without biases of query, key and value."""
    names = ("W_query", "W_key", "W_value")
    book = (
        (r"wte\.", "tok_emb."),
        (r"wpe\.", "pos_emb."),
        (r"^h\.", "trf_blocks."),
        (r"ln_([12])\.weight", r"norm\1.scale"),
        (r"ln_([12])\.bias", r"norm\1.shift"),
        (r"ln_f\.weight", "final_norm.scale"),
        (r"ln_f\.bias", "final_norm.shift"),
        (r"attn\.c_proj", "att.out_proj"),
        (r"attn\.", "att."),
        (r"mlp\.c_fc", "ff.layers.0"),
        (r"mlp\.c_proj", "ff.layers.2"),
    )
    stored = dict(renamed(apart(linear(tensors), names, 0), *book))
    stored = {name: x for name, x in stored.items() if not re.search(r"W_\w+\.bias", name)}
    return stored | {"out_head.weight": tensors["wte.weight"]}


def without_qkv_biases(tensors):
    return {name: x * 0 if name.endswith("c_attn.bias") else x for name, x in tensors.items()}


def with_head(tensors):
    return tensors | {"lm_head.weight": tensors["wte.weight"]}


def openai(tensors):
    names = (
        (r"^h\.(\d+)", r"h\1"),
        (r"(ln_\w+)\.weight", r"\1.g"),
        (r"(wte|wpe)\.weight", r"\1"),
        (r"\.weight", ".w"),
        (r"\.bias", ".b"),
    )
    stored = {name.replace(".", "/"): x for name, x in renamed(tensors, *names)}
    return {f"model/{name}": x[None] if name.endswith("/w") else x for name, x in stored.items()}


def test_mingpts_names():
    expect(mingpt(hub_tensors()), with_head(hub_tensors()), is_linear=True, activation="gelu")
    assert set(own(mingpt(hub_tensors())).left_out.values()) == {"a causal mask"}


def test_the_names_of_a_book_and_its_activation():
    tensors = with_head(without_qkv_biases(hub_tensors()))
    expect(from_scratch(hub_tensors()), tensors, is_linear=True, activation="gelu_new")


def test_openais_names_beside_the_slots_of_optimizers():
    stored = openai(hub_tensors())
    slots = {f"{name}/{slot}": x * 0 + 7 for name, x in stored.items() for slot in ("Adam", "Adam_1")}
    vectors = {f"{name}/adafactor_vr": x.reshape(-1)[:4] for name, x in stored.items()}
    counters = {name: np.float32(0.9) for name in ("beta1_power", "beta2_power")} | {"global_step": np.int64(1000)}
    expect(stored, hub_tensors(), left_out={}, is_linear=False)
    expect(stored | slots | vectors | counters, hub_tensors())
    told = own(stored | slots | vectors | counters).left_out
    assert told.keys() == slots.keys() | vectors.keys() | counters.keys()
    assert told["model/wte/Adam"] == "a slot of an optimizer"
    expect(stored | {f"training/Adam/{name}/m": x for name, x in stored.items()}, hub_tensors())


@pytest.mark.parametrize("mask", ["sa.heads.1.tril", "attn.mask", "self_attn.inner.causal_mask", "attn.bias"])
def test_a_mask_anywhere_in_attention_is_left_out(mask):
    masks = {f"blocks.{i}.{mask}": np.tri(7, dtype=np.float32) for i in range(2)}
    stored = dict(renamed(hub_tensors(), (r"^h\.", "blocks.")))
    expect(stored | masks, hub_tensors(), left_out=dict.fromkeys(masks, "a causal mask"))


def test_conv1d_with_query_key_and_value_apart():
    expect(apart(hub_tensors(), ("q_proj", "k_proj", "v_proj"), 1), hub_tensors(), is_linear=False)


WORDS = st.sampled_from(["model", "net", "module", "_orig_mod", "transformer", "gpt", "actor", "_forward_module"])


@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=2), st.sampled_from([linear, dict, mingpt]))
def test_whatever_holds_a_model_is_no_part_of_its_names(outer, inner, layout):
    stored = layout(hub_tensors())
    head = {name: stored.pop(name) for name in ("head.weight",) if name in stored}
    body = prefixed("".join(f"{word}." for word in outer + inner), stored)
    head = prefixed("".join(f"{word}." for word in outer), head or {"lm_head.weight": hub_tensors()["wte.weight"]})
    expect(body | head, with_head(hub_tensors()))


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."])
def test_what_holds_each_block_is_no_part_of_its_names(wrapper):
    stored = {re.sub(r"^(h\.\d+\.)", rf"\1{wrapper}", name): x for name, x in hub_tensors().items()}
    expect(prefixed("transformer.", stored), hub_tensors())


@pytest.mark.parametrize("prefix", ["", "transformer.", "model.", "a.b."])
@pytest.mark.parametrize(
    "name",
    [
        "score.weight",
        "classifier.weight",
        "qa_outputs.bias",
        "v_head.summary.weight",
        "v_head.0.bias",
        "multiple_choice_head.summary.weight",
        "value_head.weight",
        "ilql_heads.q_heads.0.0.weight",
        "reward_head.weight",
    ],
)
def test_heads_of_other_kinds_are_left_out_wherever_they_are(prefix, name):
    stored = prefixed(prefix, hub_tensors())
    for place in {"", prefix}:
        head = {place + name: np.zeros((1, C), np.float32)}
        expect(stored | head, hub_tensors())
        assert own(stored | head).left_out.keys() == head.keys()


def test_what_lies_beside_the_model_is_left_out():
    stored = prefixed("model.", hub_tensors())
    found = own(stored | {"criterion.weight": np.ones(3, np.float32), "metric.total": np.float32(3)})
    assert found.left_out == {
        "criterion.weight": "beside the model, which is in model",
        "metric.total": "a single number, such as a counter",
    }


@pytest.mark.parametrize(
    "name",
    [
        "h.2.ln_1.weight",
        "h.0.ln_3.weight",
        "h.0.attn.rotary.inv_freq",
        "lm_head.bias",
        "head.1.weight",
        "prompt_encoder.embedding.weight",
        "wte_extra.weight",
        "h.0.attn.c_attn.weight.absmax",
        "h.0.crossattention.q_attn.weight",
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_looks_like_a_part_of_the_model_stays_and_fits_nothing(prefix, name):
    stored = prefixed(prefix, hub_tensors() | {name: np.zeros((2, C), np.float32)})
    found = own(stored)
    assert len(found.tensors) == len(hub_tensors()) + 1
    assert not found.left_out


def test_two_models_in_a_file_are_told():
    both = prefixed("model.", hub_tensors()) | prefixed("ema.model.", hub_tensors(seed=1))
    with pytest.raises(CheckpointError, match=r"x: 2 models, under model, ema\.model, expected one"):
        own(both)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("wte.weight", "tok_emb.weight"),
        ("h.0.ln_1.weight", "h.0.ln_1.gamma"),
        ("h.1.mlp.c_fc.bias", "h.1.mlp.fc1.bias"),
        ("lm_head.weight", "head.weight"),
        ("h.1.ln_2.bias", "h.1._orig_mod.ln_2.bias"),
    ],
)
def test_two_names_of_one_tensor_are_told(one, other):
    tensors = with_head(hub_tensors())
    with pytest.raises(CheckpointError, match=re.escape(f"{one} and {other} are both {one}: which one counts?")):
        own(tensors | {other: tensors[one]})


def test_a_square_query_is_one_of_nn_linear_and_turned():
    """No shape tells it: all matrices of this model are square."""
    tensors = hub_tensors(n_inner=C)
    stored = apart(linear(tensors), THREE, 0)
    expect(stored, tensors, is_linear=True)


def test_no_tensor_is_read():
    spy = Spy(mingpt(hub_tensors()))
    find_own(spy.tensors, "x")
    assert spy.reads == []

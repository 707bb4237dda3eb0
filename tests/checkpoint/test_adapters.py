"""An adapter is merged into its base as PEFT defines it, and whatever else is in one is refused by name."""

import json
import math
import shutil
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from support import pickles
from support.checkpoints import (
    CONFIG,
    TOKENS,
    bf16,
    hub_tensors,
    prefixed,
    write_checkpoint,
    write_json,
    write_safetensors,
    write_tokenizer,
)
from support.readers import fuzz

import numgpt
from numgpt.checkpoint import adapters
from numgpt.checkpoint.adapters import find_adapter
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.cli import main as cli
from numgpt.errors import CheckpointError, DownloadError

PLAIN = {"peft_type": "LORA", "lora_alpha": 6, "r": 3, "target_modules": ["c_attn"], "fan_in_fan_out": True}
HEAD, BLOCK = "base_model.model.", "base_model.model.transformer.h."
RNG = np.random.default_rng(5)
V, T, C, F = 11, 7, 6, 10


def draw(*shape):
    return (RNG.integers(-64, 64, shape) / 64).astype(np.float32)


def lora(module, into, out, r=3):
    """The two halves of one module."""
    return {f"{HEAD}{module}.lora_A.weight": draw(r, into), f"{HEAD}{module}.lora_B.weight": draw(out, r)}


def halves(tensors, module):
    return tensors[f"{HEAD}{module}.lora_A.weight"], tensors[f"{HEAD}{module}.lora_B.weight"]


ATTENTION = "transformer.h.1.attn.c_attn"
SOUND = lora(ATTENTION, C, 3 * C)


def write_adapter(folder, tensors, config=PLAIN, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", {**config, **settings})
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def merged(tmp_path, tensors, base_tensors=None, base_config=CONFIG, **settings):
    """The model that an adapter gives, and its base."""
    base = write_checkpoint(tmp_path / "base", base_tensors, base_config)
    adapter = write_adapter(tmp_path / "adapter", tensors, **settings)
    return numgpt.load(adapter, base=base), numgpt.load(base)


def changed(model, base):
    """The paths of the leaves that differ."""
    ours, theirs = (dict(numgpt.params.leaves(each.params)) for each in (model, base))
    return {path for path in ours | theirs if not np.array_equal(ours.get(path), theirs.get(path))}


def refusal(path, error=CheckpointError, **how):
    with pytest.raises(error) as caught:
        numgpt.load(path, **how)
    said = str(caught.value)
    assert "\n" not in said
    return said


def refused(tmp_path, tensors, **settings):
    base = write_checkpoint(tmp_path / "base")
    return refusal(write_adapter(tmp_path / "adapter", tensors, **settings), base=base)


# ---- the merge


@pytest.mark.parametrize(
    ("module", "into", "out", "path"),
    [
        ("transformer.h.1.attn.c_attn", C, 3 * C, ("h", 1, "attn", "c_attn", "w")),
        ("transformer.h.0.attn.c_proj", C, C, ("h", 0, "attn", "c_proj", "w")),
        ("transformer.h.0.mlp.c_fc", C, F, ("h", 0, "mlp", "c_fc", "w")),
        ("h.1.mlp.c_proj", F, C, ("h", 1, "mlp", "c_proj", "w")),
    ],
)
@pytest.mark.parametrize("fan_in_fan_out", [True, False])
def test_a_matrix_gets_the_product_of_the_halves_times_alpha_over_r(tmp_path, module, into, out, path, fan_in_fan_out):
    tensors = lora(module, into, out)
    model, base = merged(tmp_path, tensors, fan_in_fan_out=fan_in_fan_out)
    a, b = (x.astype(np.float64) for x in halves(tensors, module))
    new, old = model.params, base.params
    for key in path:
        new, old = new[key], old[key]
    expected = old.astype(np.float64)
    for i in range(into):
        for o in range(out):
            expected[i, o] += 2 * sum(b[o, k] * a[k, i] for k in range(3))
    assert_allclose(new, expected, atol=1e-5)
    assert changed(model, base) == {".".join(map(str, path))}
    assert model.config == base.config


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 2),
        ({"lora_alpha": 1.5}, 0.5),
        ({"use_rslora": True}, 6 / math.sqrt(3)),
        ({"alpha_pattern": {"c_attn": 12}}, 4),
        ({"alpha_pattern": {"attn": 12, "c_attn": 9, "h.1.attn.c_attn": 30}}, 3),
        ({"alpha_pattern": {r"h\.0\.attn\.c_attn": 9, r"transformer\.h\.\d+.*": 15}}, 5),
        ({"alpha_pattern": {"_attn": 12, "c_att": 12, "c_attn.": 12}}, 2),
        ({"alpha_pattern": {"^transformer.h.1.attn.c_attn": 12}, "use_rslora": True}, 12 / math.sqrt(3)),
        ({"r": 99, "rank_pattern": {"c_attn": 77}}, 2),
        ({"init_lora_weights": "gaussian", "loftq_config": {}, "eva_config": None, "layers_to_transform": [0]}, 2),
    ],
)
def test_the_scale_of_a_module(tmp_path, settings, scale):
    model, base = merged(tmp_path, SOUND, **settings)
    a, b = halves(SOUND, ATTENTION)
    difference = model.params["h"][1]["attn"]["c_attn"]["w"] - base.params["h"][1]["attn"]["c_attn"]["w"]
    assert_allclose(difference, scale * (b.astype(np.float64) @ a).T, atol=1e-5)


@pytest.mark.parametrize("form", ["bin", "a dump of the training", "BF16", "no prefix at all"])
def test_the_same_adapter_in_other_forms(tmp_path, form):
    model, _ = merged(tmp_path / "plain", SOUND)
    tensors = SOUND
    if form == "a dump of the training":
        tensors = {name.replace(".weight", ".default.weight"): x for name, x in SOUND.items()}
    if form == "BF16":
        tensors = {name: bf16(x) for name, x in SOUND.items()}
    if form == "no prefix at all":
        tensors = {name.removeprefix(HEAD): x for name, x in SOUND.items()}
    base, folder = write_checkpoint(tmp_path / "base"), write_adapter(tmp_path / "other", tensors)
    if form == "bin":
        (folder / "adapter_model.safetensors").unlink()
        code, storages = {}, {}
        for i, (name, x) in enumerate(tensors.items()):
            code[name] = pickles.tensor(pickles.storage("F32", str(i), x.size), x.shape, (x.shape[1], 1))
            storages[str(i)] = x.tobytes()
        (folder / "adapter_model.bin").write_bytes(pickles.archive(code, storages))
    assert changed(numgpt.load(folder, base=base), model) == set()


def test_a_base_of_half_precision_is_widened_and_one_of_double_stays(tmp_path):
    halves_of_base = {name: x.astype(np.float16) for name, x in hub_tensors().items()}
    model, _ = merged(tmp_path / "half", SOUND, halves_of_base)
    wide, base = merged(tmp_path / "wide", SOUND, {name: x.astype(np.float64) for name, x in hub_tensors().items()})
    assert {x.dtype.name for _, x in numgpt.params.leaves(model.params)} == {"float32"}
    assert {x.dtype.name for _, x in numgpt.params.leaves(wide.params)} == {"float64"}
    a, b = halves(SOUND, ATTENTION)
    difference = wide.params["h"][1]["attn"]["c_attn"]["w"] - base.params["h"][1]["attn"]["c_attn"]["w"]
    assert_allclose(difference, 2 * (b.astype(np.float64) @ a).T, atol=1e-5)


def test_tensors_that_stand_for_those_of_the_base_replace_them(tmp_path):
    new = {
        "transformer.ln_f.weight": draw(C),
        "transformer.h.0.mlp.c_fc.bias": draw(F),
        "transformer.wpe.weight": draw(T, C),
    }
    model, base = merged(tmp_path, SOUND | prefixed(HEAD, new) | {f"{HEAD}{ATTENTION}.base_layer.bias": draw(3 * C)})
    assert_array_equal(model.params["ln_f"]["g"], new["transformer.ln_f.weight"])
    assert_array_equal(model.params["wpe"], new["transformer.wpe.weight"])
    assert changed(model, base) == {"ln_f.g", "h.0.mlp.c_fc.b", "wpe", "h.1.attn.c_attn.w", "h.1.attn.c_attn.b"}


def test_a_bias_of_the_second_half_is_scaled_too(tmp_path):
    change = draw(3 * C)
    model, base = merged(tmp_path, SOUND | {f"{HEAD}{ATTENTION}.lora_B.bias": change})
    difference = model.params["h"][1]["attn"]["c_attn"]["b"] - base.params["h"][1]["attn"]["c_attn"]["b"]
    assert_allclose(difference, 2 * change, atol=1e-6)


# ---- tables and the head


def embedding(module, rows):
    return {f"{HEAD}{module}.lora_embedding_A": draw(3, rows), f"{HEAD}{module}.lora_embedding_B": draw(C, 3)}


@pytest.mark.parametrize("copied", [False, True])
def test_a_change_of_the_head_alone_unties_it(tmp_path, copied):
    wte = hub_tensors()["wte.weight"]
    tensors = lora("lm_head", C, V) | ({f"{HEAD}lm_head.base_layer.weight": wte} if copied else {})
    model, base = merged(tmp_path, tensors)
    a, b = halves(tensors, "lm_head")
    assert model.config == base.config._replace(tie_word_embeddings=False)
    assert_array_equal(model.params["wte"], base.params["wte"])
    assert_allclose(model.params["lm_head"], wte + 2 * (b @ a), atol=1e-5)


def test_a_change_of_the_table_alone_unties_the_head_which_stays_as_it_was(tmp_path):
    tensors = embedding("transformer.wte", V)
    model, base = merged(tmp_path, tensors)
    a, b = tensors.values()
    assert model.config.tie_word_embeddings is False
    assert_array_equal(model.params["lm_head"], base.params["wte"])
    assert_allclose(model.params["wte"], base.params["wte"] + 2 * (b @ a).T, atol=1e-5)


def test_a_table_of_positions_can_be_changed_too(tmp_path):
    tensors = embedding("transformer.wpe", T)
    model, base = merged(tmp_path, tensors)
    a, b = tensors.values()
    assert_allclose(model.params["wpe"], base.params["wpe"] + 2 * (b @ a).T, atol=1e-5)
    assert changed(model, base) == {"wpe"}


@pytest.mark.parametrize("tied_base", ["no head in it", "a copied head in it", "untied"])
def test_a_new_table_leaves_the_head_as_it_was(tmp_path, tied_base):
    tensors = hub_tensors()
    if tied_base != "no head in it":
        tensors["lm_head.weight"] = tensors["wte.weight"] * (2 if tied_base == "untied" else 1)
    new = draw(V, C)
    model, base = merged(tmp_path, {f"{HEAD}transformer.wte.weight": new}, tensors)
    assert_array_equal(model.params["wte"], new)
    assert_array_equal(model.params["lm_head"], base.params.get("lm_head", base.params["wte"]))


@pytest.mark.parametrize("rows", [9, 11, 13])
def test_a_table_and_a_head_that_are_equal_are_tied_whatever_their_length(tmp_path, rows):
    new = draw(rows, C)
    stored = {f"{HEAD}transformer.wte.weight": new, f"{HEAD}lm_head.weight": new}
    model, _ = merged(tmp_path, SOUND | stored, base_config=CONFIG | {"eos_token_id": 10})
    assert (model.config.n_vocab, model.config.tie_word_embeddings) == (rows, True)
    assert model.config.eos_token_id == (10 if rows > 10 else None)
    assert "lm_head" not in model.params
    numgpt.forward([1, 2], model.params, model.config)


def test_a_longer_table_alone_is_the_head_too(tmp_path):
    model, _ = merged(tmp_path, {f"{HEAD}transformer.wte.weight": draw(V + 2, C)})
    assert (model.config.n_vocab, model.config.tie_word_embeddings) == (V + 2, True)


@pytest.mark.parametrize("rows", [[9, 0, 4], {"transformer.wte": [9, 0, 4]}, {"x": [1], "wte": [9, 0, 4]}])
@pytest.mark.parametrize("head", [False, True])
def test_trained_rows_replace_those_of_the_table_which_stays_tied(tmp_path, rows, head):
    tensors, new = hub_tensors(), draw(3, C)
    if head:
        tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    stored = {f"{HEAD}transformer.wte.token_adapter.trainable_tokens_delta": new}
    model, base = merged(tmp_path, stored, tensors, trainable_token_indices=rows)
    assert_array_equal(model.params["wte"][[9, 0, 4]], new)
    others = [i for i in range(V) if i not in (9, 0, 4)]
    assert_array_equal(model.params["wte"][others], base.params["wte"][others])
    assert model.config == base.config
    assert model.config.tie_word_embeddings


# ---- where its base is


def test_an_adapter_beside_its_base_is_merged_and_never_passed_over(tmp_path):
    model, base = merged(tmp_path, SOUND)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, tmp_path / "base" / name)
    for path in (tmp_path / "base", tmp_path / "base" / "adapter_model.safetensors"):
        assert changed(numgpt.load(path), model) == set()
    assert changed(numgpt.load(tmp_path / "base" / "model.safetensors"), base) == set()
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "mine.safetensors")
    assert changed(numgpt.load(tmp_path / "base"), model) == set()
    (tmp_path / "base" / "adapter_config.json").unlink()
    assert "adapter_config.json: no such file" in refusal(tmp_path / "base")


@pytest.mark.parametrize("name", ["the/training/machine", "owner/base"])
def test_the_base_is_found_by_its_name(tmp_path, name, monkeypatch):
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = write_adapter(tmp_path / "adapter", SOUND, base_model_name_or_path=name)
    said = refusal(folder, DownloadError if name == "owner/base" else CheckpointError)
    assert said.startswith(f"{folder}: an adapter of '{name}': give its base by --base; ")
    write_checkpoint(tmp_path / "weights" / name)
    model, _ = merged(tmp_path / "again", SOUND)
    assert changed(numgpt.load(folder), model) == set()


def test_an_adapter_of_a_name_is_found_in_the_folder_of_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path))
    base = write_checkpoint(tmp_path / "base")
    write_adapter(tmp_path / "owner" / "tuned", SOUND, base_model_name_or_path=str(base))
    assert changed(numgpt.load("owner/tuned"), numgpt.load(base)) == {"h.1.attn.c_attn.w"}


def test_an_adapter_without_a_base_says_so(tmp_path):
    folder = write_adapter(tmp_path / "adapter", SOUND, base_model_name_or_path=None)
    assert refusal(folder) == (
        f"{folder}: an adapter, whose base is not named, and not beside it: "
        f"give the base, a name or a path, by --base (in Python base=...)"
    )
    assert "an adapter, whose base is not named" in refusal(folder, base=folder)
    (folder / "optimizer.pt").write_bytes(b"of a training run")
    assert "an adapter, whose base is not named" in refusal(folder)


def test_a_base_that_is_given_to_no_adapter_is_refused(tmp_path):
    base = write_checkpoint(tmp_path / "base")
    assert refusal(base, base=base) == f"{base}: no adapter, so the base {base} is of no use: leave it out"


def test_an_adapter_of_an_adapter_is_merged_into_the_merged(tmp_path):
    merged(tmp_path, SOUND)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tmp_path / "base" / name, tmp_path / "adapter" / name)
    second = write_adapter(tmp_path / "second", SOUND)
    model, base = numgpt.load(second, base=tmp_path / "adapter"), numgpt.load(tmp_path / "base")
    difference = model.params["h"][1]["attn"]["c_attn"]["w"] - base.params["h"][1]["attn"]["c_attn"]["w"]
    a, b = halves(SOUND, ATTENTION)
    assert_allclose(difference, 4 * (b @ a).T, atol=1e-5)


def test_the_tokenizer_is_the_adapters_if_it_has_one_and_else_the_bases(tmp_path):
    base = write_tokenizer(write_checkpoint(tmp_path / "base", hub_tensors(TOKENS), CONFIG | {"vocab_size": TOKENS}))
    folder = write_adapter(tmp_path / "adapter", SOUND)
    assert len(numgpt.load(folder, base=base).tokenizer) == TOKENS
    write_tokenizer(folder, ("<new>",))
    assert len(numgpt.load(folder, base=base).tokenizer) == TOKENS + 1


def test_the_commands_show_the_merge_and_write_it(tmp_path, capsys):
    model, _ = merged(tmp_path, SOUND)
    where = [str(tmp_path / "adapter"), "--base", str(tmp_path / "base")]
    assert cli.main(["inspect", "-m", *where]) == 0
    assert "  h.1.attn.c_attn.weight                   LoRA of rank 3, scale 2\n" in capsys.readouterr().out
    assert cli.main(["inspect", "-m", *where, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["merged"] == {"h.1.attn.c_attn.weight": "LoRA of rank 3, scale 2"}
    assert cli.main(["convert", where[0], str(tmp_path / "copy"), *where[1:]]) == 0
    assert changed(numgpt.load(tmp_path / "copy"), model) == set()


def test_training_goes_on_from_an_adapter(tmp_path):
    base = write_tokenizer(write_checkpoint(tmp_path / "base", hub_tensors(TOKENS), CONFIG | {"vocab_size": TOKENS}))
    folder = write_adapter(tmp_path / "adapter", SOUND, base_model_name_or_path=str(base))
    (tmp_path / "text").write_text("hi there " * 50, encoding="utf-8")
    numgpt.train(tmp_path / "text", tmp_path / "run", start=folder, steps=1, batch_size=1, block_size=4, warmup_steps=0)
    assert "h.1.attn.c_attn.w" in changed(numgpt.load(tmp_path / "run"), numgpt.load(base))
    assert not (tmp_path / "run" / "adapter_config.json").exists()


def test_only_a_folder_with_files_of_an_adapter_is_one(tmp_path):
    base, folder = write_checkpoint(tmp_path / "base"), write_adapter(tmp_path / "adapter", SOUND)
    assert find_adapter(base) is None
    assert find_adapter(base / "model.safetensors") is None
    assert find_adapter(folder) == find_adapter(folder / "adapter_config.json") == folder


# ---- what is refused


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is True"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is {"),
        ({"arrow_config": {"x": 1}}, "arrow_config is {'x': 1}"),
        ({"use_of_tomorrow": True}, "use_of_tomorrow is True"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is [1]"),
        ({"target_parameters": ["x"]}, "target_parameters is ['x']"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is [[0, 1]]"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16', which changes the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS', expected 'CAUSAL_LM'"),
        ({"lora_alpha": "6"}, "lora_alpha is '6', expected a number"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"alpha_pattern": [1]}, "alpha_pattern is [1], expected an object"),
        ({"alpha_pattern": {"c_attn": None}}, "alpha_pattern of c_attn is None"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern has '(', expected a short regular expression"),
        ({"alpha_pattern": {"a" * 500: 1}}, "expected a short regular expression"),
        ({"alpha_pattern": {"(x{1,9000}){9000}": 1}}, "expected a short regular expression"),
        ({"alpha_pattern": {"(" * 100 + "x" + ")" * 99: 1}}, "expected a short regular expression"),
    ],
)
def test_other_methods_and_settings_are_refused_by_name(tmp_path, settings, named):
    said = refused(tmp_path, SOUND, **settings)
    assert said.startswith(f"{tmp_path / 'adapter' / 'adapter_config.json'}: ")
    assert named in said


def test_a_name_of_a_base_that_is_none_is_refused(tmp_path):
    assert "is 7, expected a name" in refusal(write_adapter(tmp_path / "adapter", SOUND, base_model_name_or_path=7))


def test_a_regular_expression_that_would_run_for_ever_is_stopped(tmp_path, monkeypatch):
    assert adapters.PATTERN_SECONDS <= 0.5
    monkeypatch.setattr(adapters, "PATTERN_SECONDS", 0.05)
    base = write_checkpoint(tmp_path / "base")
    tensors = lora(f"transformer.{'a' * 60}.h.1.attn.c_attn", C, 3 * C)
    folder = write_adapter(tmp_path / "adapter", tensors, alpha_pattern={"(a|aa)+!": 1})
    start = time.perf_counter()
    said = refusal(folder, base=base)
    assert time.perf_counter() - start < 2
    assert "adapter_config.json: the regular expressions of alpha_pattern need more than 0.05 s" in said


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (lora("model.layers.0.self_attn.q_proj", C, C), "q_proj: is no module of this GPT-2"),
        (lora("transformer.h.2.attn.c_attn", C, 3 * C), "h.2.attn.c_attn: is no module of this GPT-2"),
        ({f"{HEAD}score.weight": draw(2, C)}, "score: is no module of this GPT-2"),
        ({f"{HEAD}{ATTENTION}.lora_magnitude_vector": draw(C)}, "a part of DoRA"),
        ({f"{HEAD}{ATTENTION}.oft_R": draw(C)}, "is no part of a LoRA adapter that numgpt knows"),
        ({f"{HEAD}{ATTENTION}.lora_A.weight": draw(3, C)}, "lora_B.weight: is missing"),
        ({f"{HEAD}{ATTENTION}.lora_B.weight": draw(C, 3)}, "lora_A.weight: is missing"),
        (lora(ATTENTION, C, C), "A has the shape (3, 6) and B (6, 3), expected (r, 6) and (18, r)"),
        (lora(ATTENTION, C, 3 * C, r=0), "A has the shape (0, 6)"),
        ({**SOUND, f"{HEAD}{ATTENTION}.lora_B.weight": draw(18)}, "B (18,), expected (r, 6)"),
        (lora("transformer.ln_f", C, C), "belongs to a matrix"),
        (lora("transformer.wte", V, C), "lora_embedding_A: is missing"),
        (SOUND | {f"{HEAD}{ATTENTION}.lora_embedding_A": draw(3, C)}, "lora_embedding_A: is no part of this module"),
        ({f"{HEAD}transformer.wpe.weight": draw(T + 1, C)}, "shape (8, 6), expected (7, 6)"),
        ({f"{HEAD}transformer.wte.weight": draw(V, C + 1)}, "shape (11, 7), expected (11, 6)"),
        ({f"{HEAD}transformer.wte.weight": draw(V)}, "shape (11,), expected (11, 6)"),
        ({f"{HEAD}lm_head.bias": draw(V)}, "lm_head.bias: shape (11,), expected no such tensor"),
        ({f"{HEAD}transformer.ln_f.{x}weight": draw(C) for x in ("", "base_layer.")}, "is there twice"),
        (SOUND | {name.removeprefix(HEAD): x for name, x in SOUND.items()}, "is there twice, under different names"),
        (SOUND | {f"{HEAD}{ATTENTION}.lora_B.bias": draw(C)}, "lora_B.bias: shape (6,)"),
        ({f"{HEAD}transformer.ln_f.weight": np.zeros(C, np.int64)}, "dtype I64"),
        ({f"{HEAD}transformer.wte.token_adapter.trainable_tokens_delta": draw(2, C)}, "no trainable_token_indices"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_those_of_an_adapter_of_this_model_are_refused(tmp_path, tensors, said):
    assert said in refused(tmp_path, tensors)


@pytest.mark.parametrize(
    "rows", [[0], [0, 1, 2], [0, V], [0, -1], [0, 10**30], "01", [0, True], {"wte": 3}, {"x": [0, 1]}]
)
def test_rows_that_are_not_there_are_refused(tmp_path, rows):
    tensors = {f"{HEAD}transformer.wte.token_adapter.trainable_tokens_delta": draw(2, C)}
    assert "expected" in refused(tmp_path, tensors, trainable_token_indices=rows)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_of_an_adapter_is_refused(tmp_path, missing):
    merged(tmp_path, SOUND)
    (tmp_path / "adapter" / missing).unlink()
    said = refusal(tmp_path / "adapter", base=tmp_path / "base")
    assert missing in said
    assert "expected" in said


# ---- damaged adapters


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["peft_type", "lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "trainable_token_indices",
     "init_lora_weights", "task_type", "base_model_name_or_path", "rank_pattern", "loftq_config"]
)  # fmt: skip
CUTS = st.tuples(st.sampled_from(["cut", "flip", "insert"]), st.floats(0, 1), st.binary(min_size=1, max_size=9))


def damage(raw, how, place, what):
    at = int(place * (len(raw) - 1))
    if how == "cut":
        return raw[:at]
    return raw[:at] + what + raw[at + (len(what) if how == "flip" else 0) :]


def survives(folder, base):
    """Whatever is in an adapter, it gives a model or a CheckpointError in one line, soon, and in little memory."""
    tracemalloc.start()
    start = time.perf_counter()
    said = ""
    try:
        numgpt.load(folder, base=base)
    except CheckpointError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 1000
    assert not said or "expected" in said or "twice" in said or "no module of this GPT-2" in said
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def damaged_tensors(tmp_path, damages):
    base = write_checkpoint(tmp_path / "base")
    rows = {f"{HEAD}transformer.wte.token_adapter.trainable_tokens_delta": draw(2, C)}
    folder = write_adapter(tmp_path / "adapter", SOUND | rows, trainable_token_indices=[1, 2])
    raw = (folder / "adapter_model.safetensors").read_bytes()
    for each in damages:
        raw = damage(raw, *each)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").write_bytes(raw)
    survives(folder, base)


def damaged_config(tmp_path, changes, damages):
    base = write_checkpoint(tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", SOUND, **changes)
    raw = (folder / "adapter_config.json").read_bytes()
    for each in damages:
        raw = damage(raw, *each)
    (folder / "adapter_config.json").write_bytes(raw)
    survives(folder, base)


@fuzz(20)
@given(st.lists(CUTS, min_size=1, max_size=3))
def test_damaged_tensors_are_refused(tmp_path, damages):
    damaged_tensors(tmp_path, damages)


@fuzz(20)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.lists(CUTS, max_size=1))
def test_a_damaged_config_is_refused(tmp_path, changes, damages):
    damaged_config(tmp_path, changes, damages)


@pytest.mark.thorough
@fuzz(2000)
@given(st.lists(CUTS, min_size=1, max_size=4))
def test_two_thousand_files_of_damaged_tensors_are_refused(tmp_path, damages):
    damaged_tensors(tmp_path, damages)


@pytest.mark.thorough
@fuzz(2000)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.lists(CUTS, max_size=1))
def test_two_thousand_damaged_configs_are_refused(tmp_path, changes, damages):
    damaged_config(tmp_path, changes, damages)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{" * 100_000, b'{"peft_type":' * 10_000, b'{"lora_alpha": ' + b"9" * 10**6]
)
def test_a_config_that_is_no_json_object_is_refused(tmp_path, raw):
    base, folder = write_checkpoint(tmp_path / "base"), write_adapter(tmp_path / "adapter", SOUND)
    (folder / "adapter_config.json").write_bytes(raw)
    survives(folder, base)
    assert str(folder / "adapter_config.json") in refusal(folder, base=base)


def test_no_tensor_is_read_before_it_is_asked_for(tmp_path, monkeypatch):
    base, folder = write_checkpoint(tmp_path / "base"), write_adapter(tmp_path / "adapter", SOUND)
    monkeypatch.setattr("numgpt.checkpoint.safetensors.read_array", lambda *args: pytest.fail("a tensor was read"))
    assert open_checkpoint(folder, base).hub_tensors["h.1.attn.c_attn.weight"].shape == (C, 3 * C)

"""Adapters that PEFT itself wrote: the logits of the model that was trained, and of merge_and_unload where that is it.

merge_and_unload adds the change of a tied head to the table too, which is another model than the one that was trained:
there the trained one counts. Truth is the peer in float64; what PEFT trains in float32 may differ by its rounding.
"""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

pytestmark = pytest.mark.filterwarnings("ignore")
IDS = [3, 14, 15, 9, 26, 5, 35]
SMALL = {"vocab_size": 64, "n_positions": 12, "n_embd": 20, "n_head": 4, "n_layer": 3}
ROUNDING = 1e-12  # of float64, of the largest logit


def spread(parameters, std, seed):
    """Give weights at which every part of a model does something."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=std)


def small(tied=True):
    config = GPT2Config(**SMALL, bos_token_id=63, eos_token_id=63, tie_word_embeddings=tied)
    model = GPT2LMHeadModel(config)
    spread(model.parameters(), 0.3, 7)
    return model.double().eval()


def logits_of(model):
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


def adapted(folder, tied=True, resize=None, dtype=torch.float64, **settings):
    """Write a base and an adapter, and return the logits of the trained model, and of the merged."""
    small(tied).save_pretrained(folder / "base")
    base = GPT2LMHeadModel.from_pretrained(folder / "base", dtype=dtype)
    if resize:
        base.resize_token_embeddings(resize)
        spread([base.transformer.wte.weight], 0.3, 8)
    model = get_peft_model(base, LoraConfig(**{"r": 3, "lora_alpha": 12, **settings}))
    spread((parameter for parameter in model.parameters() if parameter.requires_grad), 0.2, 9)
    model.double().eval()
    trained = logits_of(model)
    model.save_pretrained(folder / "adapter")
    config = folder / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(folder / "base")}))
    return trained, logits_of(model.merge_and_unload().eval())


def assert_near(folder, truth):
    model = numgpt.load(folder)
    assert model.params["wte"].dtype == np.float64
    found = numgpt.forward(IDS, model.params, model.config)
    assert np.abs(found - truth).max() <= ROUNDING * np.abs(truth).max()


NAMES = ["c_attn", "c_proj", "c_fc"]
MERGES_WELL = {
    "attention": {"target_modules": ["c_attn"]},
    "all matrices": {"target_modules": NAMES, "fan_in_fan_out": True},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"target_modules": NAMES, "use_rslora": True},
    "patterns": {
        "target_modules": NAMES,
        "rank_pattern": {r"h\.0\.attn\.c_attn": 5, "c_fc": 2},
        "alpha_pattern": {r"^transformer\.h\.[01]\..*": 30, "c_attn": 1.5, "mlp.c_proj": 40},
    },
    "a regular expression": {"target_modules": r".*h\.[02]\.(attn\.c_attn|mlp\.c_fc)"},
    "some layers": {"target_modules": ["c_attn"], "layers_to_transform": [1], "layers_pattern": "h"},
    "but some": {"target_modules": NAMES, "exclude_modules": ["c_fc"]},
    "biases of its own": {"target_modules": ["c_attn"], "bias": "lora_only"},
    "all biases": {"target_modules": ["c_attn"], "bias": "all"},
    "biases of the halves": {"target_modules": NAMES, "lora_bias": True},
    "a norm": {"target_modules": ["c_attn"], "modules_to_save": ["ln_f"]},
    "the table": {"target_modules": ["c_attn"], "modules_to_save": ["wte"]},
    "table and head": {"target_modules": ["c_attn"], "modules_to_save": ["wte", "lm_head"]},
    "positions": {"target_modules": ["c_attn", "wpe"]},
    "rows": {"target_modules": ["c_attn"], "trainable_token_indices": [1, 5, 40]},
    "rows by name": {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [1, 5, 40]}},
    "gaussian": {"target_modules": ["c_attn"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", MERGES_WELL)
def test_the_logits_are_those_of_the_trained_and_of_the_merged_model(tmp_path, kind, tied):
    trained, merged = adapted(tmp_path, tied, **MERGES_WELL[kind])
    assert np.abs(merged - trained).max() <= ROUNDING * np.abs(merged).max()
    assert np.abs(logits_of(small(tied)) - trained).max() > 0.01 * np.abs(trained).max()
    assert_near(tmp_path / "adapter", trained)


@pytest.mark.parametrize("names", [["lm_head"], ["wte"], ["wte", "lm_head"], ["wte", "c_attn"], ["lm_head", "c_attn"]])
@pytest.mark.parametrize("more", [{}, {"ensure_weight_tying": True}])
def test_a_head_that_training_untied_stays_so(tmp_path, names, more):
    trained, merged = adapted(tmp_path, target_modules=names, **more)
    assert np.abs(merged - trained).max() > 0.1 * np.abs(trained).max()
    assert_near(tmp_path / "adapter", trained)


@pytest.mark.parametrize("names", [["lm_head"], ["wte"], ["wte", "lm_head"]])
def test_an_untied_head_and_table_are_changed_each_for_itself(tmp_path, names):
    trained, _ = adapted(tmp_path, tied=False, target_modules=names)
    assert_near(tmp_path / "adapter", trained)


@pytest.mark.parametrize("rows", [60, 70])
def test_a_vocabulary_that_was_resized_before_the_training_is_that_of_the_adapter(tmp_path, rows):
    trained, _ = adapted(tmp_path, resize=rows, target_modules=["c_attn"])
    assert trained.shape == (len(IDS), rows)
    assert_near(tmp_path / "adapter", trained)


def test_an_adapter_in_pytorchs_format(tmp_path):
    trained, _ = adapted(tmp_path, target_modules=NAMES)
    model = peft.PeftModel.from_pretrained(small(), tmp_path / "adapter")
    model.save_pretrained(tmp_path / "old", safe_serialization=False)
    assert (tmp_path / "old" / "adapter_model.bin").exists()
    found = numgpt.load(tmp_path / "old", base=tmp_path / "base")
    assert np.abs(numgpt.forward(IDS, found.params, found.config) - trained).max() <= ROUNDING * np.abs(trained).max()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ],
)
def test_what_is_more_than_lora_is_refused_by_name(tmp_path, settings, named):
    adapted(tmp_path, dtype=torch.float32, target_modules=["c_attn"], **settings)
    with pytest.raises(numgpt.CheckpointError, match=named):
        numgpt.load(tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["IA3Config", "AdaLoraConfig", "VeraConfig", "PromptTuningConfig"])
def test_other_methods_are_refused_by_name(tmp_path, kind):
    base = small().float()
    settings = {
        "IA3Config": {"target_modules": ["c_attn"], "feedforward_modules": []},
        "AdaLoraConfig": {"target_modules": ["c_attn"], "total_step": 10},
        "PromptTuningConfig": {"num_virtual_tokens": 2, "task_type": "CAUSAL_LM"},
    }.get(kind, {"target_modules": ["c_proj"]})
    config = getattr(peft, kind)(**settings)
    model = get_peft_model(base, config)
    small().save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(numgpt.CheckpointError, match=f"peft_type is '{config.peft_type.value}'"):
        numgpt.load(tmp_path / "adapter", base=tmp_path / "base")

"""llm.c's debug state against autograd: the GPT-2 of Transformers makes one, which verify passes, and ours equals it.

Here gradients are those of torch, and the file is written after write_state of llm.c's train_gpt2.py: nothing of it is
computed or laid out by numgpt.
"""

import copy
import json

import numpy as np
import pytest
import torch
from support import llmcs
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.cli import main as cli
from numgpt.verify.gradients import compare_state, write_trace_of_gradients
from numgpt.verify.llmc_state import read_state

SIZES = {"vocab_size": 300, "n_positions": 40, "n_embd": 48, "n_head": 4, "n_layer": 3}


def peer(seed, **changes):
    """A random model of Transformers, with gains and biases that are not those of a new one."""
    torch.manual_seed(seed)
    settings = {**SIZES, "bos_token_id": None, "eos_token_id": None, **changes}
    model = GPT2LMHeadModel(GPT2Config(**settings, attn_implementation=["eager", "sdpa"][seed % 2])).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_([0.02, 0.2][seed // 2 % 2] * torch.randn_like(x))
    return model


def batch(seed, B, S, V=300):
    ids = np.random.default_rng(seed).integers(V, size=(B, S + 1))
    return ids[:, :-1], ids[:, 1:]


def gradients(model, x, y, dtype=torch.float32):
    """The arguments of `llmcs.state`, by torch: the writer takes the Hub's tensors."""
    model = copy.deepcopy(model).to(dtype)
    logits = model(torch.as_tensor(x)).logits
    loss = cross_entropy(logits.flatten(0, 1), torch.as_tensor(y).flatten())
    loss.backward()
    grads = {name.removeprefix("transformer."): p.grad.numpy() for name, p in model.named_parameters()}
    return {"grads": grads, "x": x, "y": y, "logits": logits.detach().numpy(), "loss": loss.item()}


def written(model, folder, parts, version=2):
    model.save_pretrained(folder)
    return numgpt.load(folder), llmcs.write(folder / "state.bin", llmcs.state(**parts, version=version))


def compared(ours, path):
    return compare_state(read_state(path, ours.config), ours)


@pytest.mark.parametrize("seed", range(12))
def test_a_state_of_torch_in_float32_passes(tmp_path, seed):
    B, S = [(4, 32), (1, 40), (2, 1), (1, 1)][seed % 4]
    model = peer(seed, vocab_size=[300, 256][seed % 2], n_layer=1 + seed % 4)
    x, y = batch(seed, B, S, 256)
    report = compared(*written(model, tmp_path, gradients(model, x, y), version=1 + seed // 3 % 2))
    assert report.passed, report
    assert report.precision == "float32"


@pytest.mark.parametrize("B", [1, 4])
def test_what_numgpt_computes_is_what_autograd_does_in_float64(tmp_path, B):
    """Ours is compared in float64, and so is torch's: what is left is the rounding of the file to float32."""
    model = peer(2)
    parts = gradients(model, *batch(7, B, 32), torch.float64)
    report = compared(*written(model, tmp_path, parts))
    assert report.passed, report
    assert max(row.max_rel for row in report.rows) <= 2**-24


def test_a_state_that_numgpt_writes_holds_what_autograd_computes(tmp_path):
    model = peer(3)
    x, y = batch(5, 1, 30)
    expected = llmcs.state(**gradients(model, x, y, torch.float64))
    model.save_pretrained(tmp_path)
    write_trace_of_gradients(tmp_path / "state.bin", [*x[0].tolist(), int(y[0, -1])], numgpt.load(tmp_path))
    raw = (tmp_path / "state.bin").read_bytes()
    start = 1024 + 4 * 2 * 30
    assert len(raw) == len(expected)
    assert raw[:start] == expected[:start]
    numbers, truth = (np.frombuffer(part[start:], "<f4") for part in (raw, expected))
    np.testing.assert_allclose(numbers, truth, rtol=2**-22, atol=1e-12 * abs(truth).max())


@pytest.mark.parametrize("seed", range(6))
def test_one_number_that_is_changed_is_found(tmp_path, seed):
    model = peer(seed)
    parts = gradients(model, *batch(seed, 2, 24))
    draw = np.random.default_rng(seed)
    name = list(parts["grads"])[int(draw.integers(len(parts["grads"])))]
    at = tuple(int(draw.integers(size)) for size in parts["grads"][name].shape)
    if name == "wpe.weight":
        at = (at[0] % 24, at[1])  # the others are 0
    parts["grads"][name][at] *= 1.02
    ours, path = written(model, tmp_path, parts)
    report = compared(ours, path)
    assert not report.passed
    assert report.rows[-1].name.removeprefix("d_").split(".")[:-1] == name.split(".")[:-1] or name in ("wte.weight",)
    assert f"{list(at)}, in llm.c" in report.pattern[0]


def test_a_model_of_bfloat16_beside_a_state_of_float32_passes(tmp_path):
    model = peer(0)
    parts = gradients(model, *batch(1, 4, 32))
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    report = compared(*written(rounded, tmp_path, parts))
    assert report.passed, report
    assert report.precision == "float32 and of the weights to bfloat16"


def test_a_state_under_autocast_passes_as_one_of_bfloat16(tmp_path):
    model = peer(1)
    x, y = batch(1, 4, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.as_tensor(x)).logits
    loss = cross_entropy(logits.float().flatten(0, 1), torch.as_tensor(y).flatten())
    loss.backward()
    grads = {name.removeprefix("transformer."): p.grad.numpy() for name, p in model.named_parameters()}
    logits = logits.detach().float().numpy()
    ours, path = written(model, tmp_path, {"grads": grads, "x": x, "y": y, "logits": logits, "loss": loss.item()})
    report = compared(ours, path)
    assert report.passed, report
    assert report.precision == "bfloat16"


def test_another_activation_is_called_by_its_name(tmp_path):
    model = peer(2, activation_function="gelu")
    parts = gradients(model, *batch(1, 2, 12))
    model.config.activation_function = "gelu_new"
    report = compared(*written(model, tmp_path, parts))
    assert report.rows[-1].name == "logits"
    assert report.causes[0].startswith("wrong activation: erf GELU instead of tanh GELU")


def test_the_command_line_takes_llm_cs_own_pair_of_files(tmp_path, capsys):
    model = peer(4)
    parts = gradients(model, *batch(9, 4, 32))
    path = llmcs.write(tmp_path / "gpt2_124M_debug_state.bin", llmcs.state(**parts))
    tensors = {name: x.detach().numpy() for name, x in model.transformer.state_dict().items()}
    file = llmcs.write(tmp_path / "gpt2_124M.bin", llmcs.model(tensors, n_head=4))
    assert cli.main(["verify", str(path), "-m", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert len(report["rows"]) == 2 + 4 + 12 * 3 + 1

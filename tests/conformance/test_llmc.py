"""llm.c's files against PyTorch and Transformers: a model written after train_gpt2.py, and ours read in its way."""

import numpy as np
import pytest
import torch
from support import llmcs
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.llmc import round_to_bf16
from numgpt.params import leaves

IDS = [(7919 * i * i + 104729 * i + 1) % 300 for i in range(24)]
SIZES = {"vocab_size": 300, "n_positions": 32, "n_embd": 64, "n_head": 4, "n_layer": 3}


@pytest.fixture(scope="module")
def peer():
    """A random model of Transformers, with gains and biases that are not those of a new one."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SIZES)).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.1 * torch.randn_like(x))
    return model


@pytest.fixture(scope="module")
def hub(peer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    peer.save_pretrained(folder)
    return folder


def logits_of(model):
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


def written_by_torch(peer, dtype):
    """What write_model and write_tensors of llm.c's train_gpt2.py write of a model, whose matrices are nn.Linear's."""
    state, config = peer.transformer.state_dict(), peer.config
    state = {name: x.T if name.startswith("h.") and x.ndim == 2 else x for name, x in state.items()}
    state["wte.weight"] = torch.nn.functional.pad(state["wte.weight"], (0, 0, 0, 384 - 300))
    header = torch.zeros(256, dtype=torch.int32)
    version = {torch.float32: 3, torch.bfloat16: 5}[dtype]
    values = [20240326, version, config.n_positions, 300, config.n_layer, config.n_head, config.n_embd, 384]
    header[: len(values)] = torch.tensor(values)
    names = ["wte.weight", "wpe.weight", *(f"h.{i}.{name}" for name in llmcs.ORDER for i in range(config.n_layer))]
    raw = header.numpy().tobytes()
    for name in [*names, "ln_f.weight", "ln_f.bias"]:
        x = state[name].contiguous().to(dtype)
        raw += (x if dtype == torch.float32 else x.view(torch.int16)).numpy().tobytes()
    return raw


def read_by_torch(raw):
    """A model of Transformers out of a file, as llm.c's dev/eval/export_hf.py reads it."""
    header = np.frombuffer(raw[:1024], "<i4").tolist()
    assert header[0] == 20240326
    _, version, n_positions, n_vocab, n_layer, n_head, C, n_rows = header[:8]
    stored = np.frombuffer(raw[1024:], {3: "<f4", 5: "<u2"}[version])
    numbers = torch.from_numpy(stored.copy() if version == 3 else (stored.astype(np.uint32) << 16).view(np.float32))
    config = GPT2Config(vocab_size=n_vocab, n_positions=n_positions, n_embd=C, n_head=n_head, n_layer=n_layer)
    model = GPT2LMHeadModel(config).eval()
    state, at = {}, 0

    def take(*shape):
        nonlocal at
        begin, at = at, at + int(np.prod(shape))
        return numbers[begin:at].reshape(shape)

    state["wte.weight"], state["wpe.weight"] = take(n_rows, C)[:n_vocab], take(n_positions, C)
    shapes = [(C,), (C,), (3 * C, C), (3 * C,), (C, C), (C,), (C,), (C,), (4 * C, C), (4 * C,), (C, 4 * C), (C,)]
    for name, shape in zip(llmcs.ORDER, shapes, strict=True):
        for i, x in enumerate(take(n_layer, *shape)):
            state[f"h.{i}.{name}"] = x.T if x.ndim == 2 else x
    state["ln_f.weight"], state["ln_f.bias"] = take(C), take(C)
    assert at == len(numbers)
    model.transformer.load_state_dict(state)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_of_torch_gives_the_logits_of_transformers(peer, tmp_path, dtype):
    path = llmcs.write(tmp_path / "m.bin", written_by_torch(peer, dtype))
    rounded = GPT2LMHeadModel(peer.config).eval()
    rounded.load_state_dict({name: x.to(dtype).float() for name, x in peer.state_dict().items()})
    model = numgpt.load(path)
    logits = numgpt.forward(IDS, model.params, model.config)
    np.testing.assert_allclose(logits, logits_of(rounded), atol=2e-5)
    if dtype == torch.bfloat16:  # so the rounding is seen
        assert abs(logits - logits_of(peer)).max() > 1e-3


@pytest.mark.parametrize(("name", "dtype"), [("F32", torch.float32), ("BF16", torch.bfloat16)])
def test_our_file_is_that_of_torch_and_read_by_it(peer, hub, tmp_path, name, dtype):
    path = convert(hub, tmp_path / "m.bin", to="llm.c", dtype=name)
    assert path.read_bytes() == written_by_torch(peer, dtype)
    model = numgpt.load(path)
    expected = numgpt.forward(IDS, model.params, model.config)
    np.testing.assert_allclose(logits_of(read_by_torch(path.read_bytes())), expected, atol=2e-5)


def test_numbers_are_rounded_as_torch_rounds_them():
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 20, dtype=np.uint32)
    bits[: 1 << 18] = bits[: 1 << 18] & 0xFFFF0000 | 0x8000  # ties
    x = bits.view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) < 3.38e38)]
    expected = torch.from_numpy(x.copy()).to(torch.bfloat16).float().numpy()
    assert np.array_equal(round_to_bf16(x).view(np.uint32), expected.view(np.uint32))


def test_there_and_back_every_weight_is_the_same(hub, tmp_path):
    back = convert(convert(hub, tmp_path / "m.bin", to="llm.c"), tmp_path / "back")
    for (path, x), (_, y) in zip(leaves(numgpt.load(back).params), leaves(numgpt.load(hub).params), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)
    states = [GPT2LMHeadModel.from_pretrained(folder).state_dict() for folder in (back, hub)]
    torch.testing.assert_close(*states, rtol=0, atol=0)

"""ggml's first format against live peers: blocks that gguf-py quantised, and the model of Transformers."""

import gguf
import numpy as np
import pytest
import torch
from support.ggmls import renamed, write
from support.ggufs import Tensor, f16, f32
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.checkpoint.reading import open_checkpoint

IDS = [3, 14, 15, 9, 26, 5, 35]
SIZES = (64, 12, 64, 4, 2)
FTYPES = {"F32": 0, "F16": 1, "Q4_0": 2002, "Q4_1": 2003, "Q8_0": 2007, "Q5_0": 2008, "Q5_1": 2009}


def quantised(x, kind):
    packed = gguf.quants.quantize(np.ascontiguousarray(x, np.float32), kind)
    return Tensor(x.shape, kind.value, packed.tobytes()), gguf.quants.dequantize(packed, kind)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", FTYPES)
def test_logits_are_those_of_transformers_with_the_weights_of_gguf_py(tmp_path, name, old):
    torch.manual_seed(0)
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    config = GPT2Config(**dict(zip(names, SIZES, strict=True)), bos_token_id=1, eos_token_id=1)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    state = {key: x.numpy() for key, x in model.transformer.state_dict().items()}
    kind, tensors = gguf.GGMLQuantizationType[name], {}
    for key, x in renamed(state, old).items():
        if x.ndim == 1 or key == "model/wpe":
            tensors[key] = f32(x)
            continue
        tensors[key], numbers = quantised(x, kind)
        stem = key.removeprefix("model/").removesuffix("/w").replace("/", ".")
        own = f"transformer.{stem.replace('h', 'h.', 1) if stem != 'wte' else stem}.weight"
        turned = key.endswith("/w") and (not old or key.endswith("mlp/c_proj/w"))
        with torch.no_grad():
            model.get_parameter(own).copy_(torch.from_numpy(numbers.T.copy() if turned else numbers))
    path = write(tmp_path / "m.bin", tensors, sizes=SIZES, ftype=FTYPES[name])
    assert open_checkpoint(path).tensors["model/h1/mlp/c_fc/w"].dtype == name
    loaded = numgpt.load(path, dtype="float64")
    with torch.no_grad():
        expected = model.double()(torch.tensor([IDS])).logits[0].numpy()
    found = numgpt.forward(IDS, loaded.params, loaded.config)
    assert abs(found - expected).max() <= 1e-12 * abs(expected).max()


def test_half_floats_of_both_writers_are_the_same():
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    assert quantised(x, gguf.GGMLQuantizationType.F16)[0].data == f16(x).data

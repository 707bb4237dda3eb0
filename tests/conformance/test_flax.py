"""Flax's files against live peers: its encoding by the msgpack library, the model of Transformers, the same numbers.

Flax and Transformers 5 do not go together: what Flax itself wrote is in tests/reference/flax.npz, and the plain suite
reads it. Truth is the peer in float64, as in test_formats.py.
"""

import json

import msgpack
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

import numgpt
from numgpt.checkpoint.flax import read_flax
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.trace import collect

IDS = [3, 14, 15, 9, 26, 5, 35]
SIZES = {"vocab_size": 64, "n_positions": 12, "n_embd": 20, "n_head": 4, "n_layer": 3, "bos_token_id": 63}


def made(kind=GPT2LMHeadModel, dtype=torch.float32, **settings):
    torch.manual_seed(7)
    model = kind(GPT2Config(**SIZES, eos_token_id=63, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.to(dtype)


def array(x):
    """What flax.serialization makes of an array: shape, dtype and numbers, in an extension of type 1."""
    name = str(x.dtype).removeprefix("torch.")
    raw = x.contiguous().view(torch.int16).numpy() if name == "bfloat16" else x.contiguous().numpy()
    return msgpack.ExtType(1, msgpack.packb((tuple(x.shape), name, raw.tobytes()), use_bin_type=True))


def in_chunks(x, count=77):
    flat = x.contiguous().reshape(-1)
    pieces = [array(flat[i : i + count]) for i in range(0, len(flat), count)]
    shape = {str(i): n for i, n in enumerate(x.shape)}
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": {str(i): x for i, x in enumerate(pieces)}}


def tree(model, store=array):
    """The parameters as modeling_flax_pytorch_utils.py of Transformers 4 names and turns them."""
    root = {}
    for name, x in model.state_dict().items():
        *parents, last = name.split(".")
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if last == "weight":
            last = "scale" if x.ndim == 1 else "embedding" if parents[-1] in ("wte", "wpe") else "kernel"
        here = root
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = store(x.T if last == "kernel" else x)
    return root


def save(folder, model, root, name="flax_model.msgpack"):
    model.config.save_pretrained(folder)
    (folder / name).write_bytes(msgpack.packb(root, strict_types=True))


def truth(model):
    with torch.no_grad():
        found = model.double()(torch.tensor([IDS]))
    return (found.logits if hasattr(found, "logits") else found.last_hidden_state)[0].numpy()


def assert_equals(folder, expected, name="logits"):
    model = numgpt.load(folder, dtype="float64")
    assert abs(collect(IDS, model, name)[name] - expected).max() <= 1e-12 * max(1, abs(expected).max())


@pytest.mark.parametrize("store", [array, in_chunks])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False, "n_inner": 20}])
def test_logits_are_those_of_transformers(tmp_path, store, dtype, settings):
    model = made(dtype=dtype, **settings)
    save(tmp_path, model, tree(model, store))
    assert_equals(tmp_path, truth(model))


def test_the_base_model_and_a_root_of_params_are_read_too(tmp_path):
    model = made(GPT2Model)
    save(tmp_path, model, {"params": tree(model), "step": 2**40, "nothing": None, "rate": 0.1})
    assert open_checkpoint(tmp_path).left_out.keys() == {"step", "nothing", "rate"}
    assert_equals(tmp_path, truth(model), "ln_f")


def test_several_files_are_one_model(tmp_path):
    """Cut as `flax_shard_checkpoint` of Transformers 4 does."""
    model = made(dtype=torch.bfloat16)
    flat, weight_map = {}, {}

    def walk(root, above):
        for key, value in root.items():
            walk(value, (*above, key)) if isinstance(value, dict) else flat.setdefault((*above, key), value)

    walk(tree(model), ())
    for k in range(4):
        part = {}
        for path in list(flat)[k * len(flat) // 4 : (k + 1) * len(flat) // 4]:
            here = part
            for key in path[:-1]:
                here = here.setdefault(key, {})
            here[path[-1]] = flat[path]
            weight_map["/".join(path)] = f"flax_model-{k + 1:05}-of-00004.msgpack"
        save(tmp_path, model, part, f"flax_model-{k + 1:05}-of-00004.msgpack")
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    assert_equals(tmp_path, truth(model))


@pytest.mark.parametrize("options", [{}, {"use_single_float": True}])
def test_every_length_that_msgpack_writes_is_read(tmp_path, options):
    """Names, maps and numbers of all lengths, also those around which the code of a length changes."""
    beside = {f"key{'x' * n}": {f"{i}": i * 7**n for i in range(n)} for n in (0, 1, 14, 15, 16, 21)}
    beside |= {f"{'name' * n}": -(7**n) for n in range(1, 21)} | {f"{n}.5": n / 2 for n in range(3)}
    beside |= {"list": list(range(20)), "flags": [True, False, None], "raw": b"x" * 300, "few": [b"", b"x"]}
    beside |= {f"extension {n}": msgpack.ExtType(99, bytes(n)) for n in (0, 1, 2, 3, 4, 8, 15, 16, 17, 255, 256, 65536)}
    arrays = {f"{n}": torch.arange(n, dtype=torch.float32) for n in (1, 2, 3, 30, 53, 54, 55, 56, 16370, 16384)}
    path = tmp_path / "any.msgpack"
    path.write_bytes(msgpack.packb({name: array(x) for name, x in arrays.items()}, **options))
    tensors = read_flax(path)
    assert tensors.keys() == arrays.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.read(), np.arange(int(name)))
    path.unlink()
    model = made()
    model.config.save_pretrained(tmp_path)
    path.write_bytes(msgpack.packb({**beside, "params": tree(model)}, **options))
    assert open_checkpoint(tmp_path).left_out.keys() == beside.keys()
    assert_equals(tmp_path, truth(model))

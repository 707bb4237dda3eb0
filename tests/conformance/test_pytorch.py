"""numgpt and PyTorch on the same files: what torch.save writes, in both formats and every protocol, to the bit."""

import argparse
import json
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from numgpt.checkpoint.pickles import STORAGES
from numgpt.checkpoint.pytorch import find_state_dict, read_object, read_pytorch, read_pytorch_index
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import CheckpointError

ROOT = Path(__file__).parent.parent.parent
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    def save(value: object, protocol: int = 2) -> Path:
        path = tmp_path / "x.bin"
        path.unlink(missing_ok=True)
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=request.param)
        return path

    return save


def gpt2(dtype: torch.dtype = torch.float32) -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=99, n_positions=16, n_embd=8, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).to(dtype)


def raw(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Any bits, also NaNs and subnormals."""
    size = torch.empty((), dtype=dtype).element_size()
    bits = np.random.default_rng(0).integers(0, 2 if dtype == torch.bool else 256, int(np.prod(shape)) * size, np.uint8)
    return torch.frombuffer(bytearray(bits), dtype=dtype).reshape(shape)


def assert_same(found: object, saved: object) -> None:
    if isinstance(saved, torch.Tensor):
        assert isinstance(found, LazyTensor)
        assert found.dtype == DTYPES[saved.dtype]
        array, half = found.read(), saved.dtype in (torch.float16, torch.bfloat16)
        expected = (saved.detach().float() if half else saved.detach()).numpy()
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape == found.shape
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
        if half:  # a NaN stays a NaN, but of its payload nothing is promised
            nan = np.isnan(expected)
            np.testing.assert_array_equal(np.isnan(array), nan)
            array, expected = array[~nan], expected[~nan]
        assert array.tobytes() == expected.tobytes()
    elif isinstance(saved, dict):
        assert isinstance(found, dict)
        assert list(found) == list(saved)
        for key, value in saved.items():
            assert_same(found[key], value)
    elif isinstance(saved, list | tuple) and type(saved) is not torch.Size:
        assert type(found) is type(saved)
        assert len(found) == len(saved)
        for one, other in zip(found, saved, strict=True):
            assert_same(one, other)
    else:
        plain = {torch.Size: tuple, torch.dtype: str, torch.device: str}.get(type(saved), lambda value: value)
        assert found == plain(saved)
        assert type(found) is type(plain(saved))


def test_the_storages_are_those_of_the_dtypes():
    names = {f"torch.{torch.storage._dtype_to_storage_type_map()[dtype]}": name for dtype, name in DTYPES.items()}
    assert names == STORAGES


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.values())
def test_every_dtype_and_view_is_read_to_the_bit(save, dtype):
    base = raw(dtype, (12, 10, 6))
    base_2d = base.view(120, 6)
    views = {
        "all": base,
        "transposed": base_2d.t(),
        "permuted": base.permute(2, 0, 1),
        "sliced": base[3:5],
        "columns": base[:, 2:4, 1:],
        "steps": base[::5, ::3, ::2],
        "narrow": base_2d[:, 1:2],
        "expanded": base[:1, :, :1].expand(4, 10, 7),
        "windows": base.reshape(-1).unfold(0, 9, 2),
        "diagonal": base_2d[:6].diagonal(),
        "scalar": base[11, 9, 5],
        "new scalar": raw(dtype, ()),
        "empty": base[:, 3:3],
        "new empty": torch.empty((0, 3), dtype=dtype),
        "own": base.clone(),
    }
    assert_same(read_object(save(views)), views)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_checkpoint_of_nanogpt_is_read(save, protocol):
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    args = {"n_layer": 3, "n_head": 2, "n_embd": 8, "block_size": 16, "bias": False, "vocab_size": 99, "dropout": 0.0}
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": args,
        "iter_num": 600_000,
        "best_val_loss": torch.tensor(2.85),
        "config": {"out_dir": "out", "compile": True, "lr": 6e-4, "init": None, "big": 2**70, "neg": -(2**40)},
    }
    path = save(saved, protocol)
    assert_same(read_object(path), saved)
    state, model_args = find_state_dict(read_object(path), path)
    assert_same(state, dict(saved["model"]))
    assert model_args == args


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read(save, protocol):
    saved = {
        "list": list(range(3000)),
        "nested": [[(), [], {}], (1, (2, (3,)))],
        "text": ["é 重 🙂", "x" * 300, ""],
        "bytes": [b"", b"\xff\0" * 300],
        "size": torch.Size([2, 3]),
        "device": [torch.device("cpu"), torch.device("cuda", 1)],
        "dtypes": list(DTYPES),
        "shared": [{"a": 1}] * 3,
        1: {2.5: None},
    }
    assert_same(read_object(save(saved, protocol)), saved)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_of_transformers_is_read_to_the_bit(save, dtype, prefix):
    state = gpt2(dtype).state_dict()
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    for i in range(3):  # as older versions had them
        state[f"transformer.h.{i}.attn.bias"] = torch.ones(16, 16, dtype=torch.uint8).tril()[None, None]
        state[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    state = OrderedDict((prefix + key, value) for key, value in state.items())
    state._metadata = OrderedDict(version=1)
    assert_same(read_pytorch(save(state)), dict(state))


def test_parameters_are_tensors(save):
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.tag = "x"
    saved = {
        "a": torch.nn.Parameter(torch.ones(3, 2).t()),
        "b": tagged,
        "c": torch.nn.Parameter(torch.zeros(()), False),
    }
    assert_same(read_object(save(saved)), saved)


def test_a_state_dict_of_a_parallel_model_is_read(save):
    state = torch.nn.DataParallel(gpt2()).state_dict()
    assert all(key.startswith("module.") for key in state)
    assert_same(read_pytorch(save({"state_dict": state, "epoch": 1})), dict(state))


def test_shards_are_read_as_one(tmp_path):
    """As save_pretrained(safe_serialization=False) of Transformers 4 wrote them."""
    state = gpt2().state_dict()
    names = [f"pytorch_model-{i:05}-of-00003.bin" for i in (1, 2, 3)]
    weight_map = {key: names[i % 3] for i, key in enumerate(state)}
    for name in names:
        torch.save({key: value for key, value in state.items() if weight_map[key] == name}, tmp_path / name)
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2) + "\n")
    found = read_pytorch_index(path)
    assert_same({key: found[key] for key in state}, dict(state))
    assert found.keys() == state.keys()


def test_a_file_that_was_packed_again_is_read(save, tmp_path):
    path = save({"a": torch.ones(3)})
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    assert_same(read_object(tmp_path / "new.pt"), torch.load(tmp_path / "new.pt"))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.zeros(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (torch.zeros(2, dtype=torch.float8_e5m2), "torch._utils._rebuild_tensor_v3"),
        (torch.zeros(2, dtype=torch.uint16), "torch._utils._rebuild_tensor_v3"),
        (torch.eye(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.zeros(2).untyped_storage(), "torch.storage.UntypedStorage"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        ({1, 2}, "__builtin__.set"),
        (np.float64(1), "numpy._core.multiarray.scalar"),
        (argparse.Namespace(a=1), "argparse.Namespace"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_no_gpt2_needs_is_refused_by_name(save, value, name):
    with pytest.raises(CheckpointError, match=f"the pickle asks for {name}, expected only tensors and plain values"):
        read_object(save({"a": value}))


@pytest.mark.parametrize("value", [OrderedDict, torch.Size, torch.FloatStorage])
def test_a_name_alone_is_refused(save, value):
    with pytest.raises(
        CheckpointError, match=rf"the pickle leaves {value.__module__}.{value.__name__} as 'a', expected"
    ):
        read_object(save({"a": value}))


PEAK = """
import sys, tracemalloc
from numgpt.checkpoint.pytorch import read_pytorch
tracemalloc.start()
tensors = read_pytorch(sys.argv[1])
opened = tracemalloc.get_traced_memory()[1]
total = sum(tensor.read().nbytes for tensor in tensors.values())
print(opened, total, tracemalloc.get_traced_memory()[1])
"""


def test_a_file_of_124m_is_read_one_tensor_at_a_time(save):
    path = save(
        {"wte": torch.empty(50257, 768), "wpe": torch.empty(1024, 768)}
        | {
            f"h.{i}.{name}": torch.empty(shape)
            for i in range(12)
            for name, shape in [
                ("c_attn", (768, 2304)),
                ("c_proj", (768, 768)),
                ("c_fc", (768, 3072)),
                ("m", (3072, 768)),
            ]
        }
    )
    run = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, cwd=ROOT, check=True)
    opened, total, peak = map(int, run.stdout.split())
    path.unlink()
    assert opened < 1 << 20
    assert total == 4 * (50257 * 768 + 1024 * 768 + 12 * 12 * 768 * 768)
    assert peak < 50257 * 768 * 4 + (1 << 20)  # the largest of them

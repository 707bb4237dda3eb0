"""numgpt's reader of safetensors against the official one, and against what Transformers writes."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
import transformers

from numgpt.checkpoint.safetensors import read_header, read_index, read_safetensors
from numgpt.checkpoint.tensors import DTYPES
from numgpt.errors import CheckpointError

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def raw_tensor(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Random bits: subnormals, infinities and NaNs too."""
    count = int(np.prod(shape)) * TORCH[dtype].itemsize
    bits = np.random.default_rng(0).integers(0, 2 if dtype == "BOOL" else 256, count, np.uint8)
    return (
        torch.frombuffer(bytearray(bits), dtype=TORCH[dtype]).reshape(shape)
        if count
        else torch.empty(shape, dtype=TORCH[dtype])
    )


def assert_same_bits(array: np.ndarray, tensor: torch.Tensor) -> None:
    """Halves are held against torch's own widening. A NaN stays a NaN, but of its payload nothing is promised."""
    expected = (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    if array.dtype.kind == "f" and tensor.dtype in (torch.float16, torch.bfloat16):
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(array), nan)
        array, expected = array[~nan], expected[~nan]
    assert array.tobytes() == expected.tobytes()


def test_the_dtypes_are_the_same():
    assert set(DTYPES) == set(TORCH)


@pytest.mark.parametrize("dtype", TORCH)
def test_what_torch_saves_is_read_to_the_bit(tmp_path, dtype):
    tensors = {"many": raw_tensor(dtype, (300, 500)), "one": raw_tensor(dtype, ()), "none": raw_tensor(dtype, (2, 0))}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "é": "重"})
    found, metadata = read_header(tmp_path / "x.safetensors")
    assert metadata == {"format": "pt", "é": "重"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert_same_bits(found[name].read(), tensor)


@pytest.mark.parametrize("dtype", sorted(set(TORCH) - {"BF16"}))
def test_what_numpy_saves_is_read_to_the_bit(tmp_path, dtype):
    tensor = raw_tensor(dtype, (7, 3))
    safetensors.numpy.save_file({"a": tensor.numpy()}, tmp_path / "x.safetensors")
    assert_same_bits(read_safetensors(tmp_path / "x.safetensors")["a"].read(), tensor)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "complex64"])
def test_the_dtypes_that_we_do_not_read_are_refused(tmp_path, dtype):
    safetensors.torch.save_file({"a": torch.zeros(4, dtype=getattr(torch, dtype))}, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"a: dtype '(F8_E4M3|F8_E5M2|C64)', expected one of F64, .*: save it as F32"
    ):
        read_safetensors(tmp_path / "x.safetensors")


# --- what Transformers writes


@pytest.fixture(scope="module")
def model() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=99, n_positions=16, n_embd=8, n_layer=3, n_head=2)
    )


def parameters(model: transformers.GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}  # tied, not saved


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_saved_model_is_read_to_the_bit(tmp_path, model, dtype):
    model = model.to(dtype)
    model.save_pretrained(tmp_path)
    found = read_safetensors(tmp_path / "model.safetensors")
    expected = parameters(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_same_bits(found[name].read(), tensor)


def test_a_saved_model_in_shards_is_read_to_the_bit(tmp_path, model):
    model = model.to(torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    found = read_index(tmp_path / "model.safetensors.index.json")
    expected = parameters(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_same_bits(found[name].read(), tensor)


def test_like_transformers_we_take_tensors_that_the_index_does_not_list(tmp_path, model):
    model = model.to(torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = "transformer.ln_f.bias"
    assert list(index["weight_map"].values()).count(index["weight_map"].pop(name)) > 1
    path.write_text(json.dumps(index))
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    found = read_index(path)
    assert found.keys() == parameters(model).keys()
    assert_same_bits(found[name].read(), theirs.state_dict()[name])


# --- unsound files


def official(path: Path) -> dict[str, np.ndarray] | None:
    """What the official reader makes of a file, or None if it refuses it."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (safetensors.SafetensorError, UnicodeError):
        return None


def ours(path: Path) -> dict[str, np.ndarray] | None:
    try:
        return {name: tensor.read() for name, tensor in read_safetensors(path).items()}
    except CheckpointError:
        return None


def pack(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entry(dtype: str = "U8", shape: str = "[4]", offsets: str = "[0,4]") -> bytes:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'.encode()


A = b'{"a":' + entry() + b"}"
BOTH_TAKE = {
    "plain": pack(A, b"1234"),
    "no tensors": pack(b"{}", b""),
    "padded": pack(A + b" \n\t", b"1234"),
    "null metadata": pack(b'{"__metadata__":null}', b""),
    "empty tensors at the borders": pack(
        b'{"a":'
        + entry()
        + b',"b":'
        + entry(shape="[0]", offsets="[0,0]")
        + b',"c":'
        + entry(shape="[0]", offsets="[4,4]")
        + b"}",
        b"1234",
    ),
    "no name": pack(b'{"":' + entry() + b"}", b"1234"),
    "any order": pack(
        b'{"b":' + entry(shape="[3]", offsets="[1,4]") + b',"a":' + entry(shape="[]", offsets="[0,1]") + b"}", b"1234"
    ),
}
BOTH_REFUSE = {
    "empty": b"",
    "7 bytes": b"\2\0\0\0\0\0\0",
    "cut in the header": b"\3\0\0\0\0\0\0\0{}",
    "header of 0": pack(b"", b""),
    "100 GB of header": b"\0\xe8\x76\x48\x17\0\0\0{}",
    "a list": pack(b"[]", b""),
    "byte order mark": pack(b"\xef\xbb\xbf{}", b""),
    "not UTF-8": pack(b'{"\xff":' + entry() + b"}", b"1234"),
    "not JSON": pack(b"{", b""),
    "NUL after the header": pack(A + b"\0", b"1234"),
    "lone surrogate": pack(b'{"\\ud800":' + entry() + b"}", b"1234"),
    "nested": pack(b'{"a":' + b"[" * 100_000, b""),
    "metadata of numbers": pack(b'{"__metadata__":{"a":1}}', b""),
    "metadata twice": pack(b'{"__metadata__":{},"__metadata__":{}}', b""),
    "a key twice": pack(b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"1234"),
    "a key missing": pack(b'{"a":{"dtype":"U8","shape":[4]}}', b"1234"),
    "unknown dtype": pack(b'{"a":' + entry("Q7") + b"}", b"1234"),
    "float in the shape": pack(b'{"a":' + entry(shape="[4.0]") + b"}", b"1234"),
    "bool in the shape": pack(b'{"a":' + entry(shape="[4,true]") + b"}", b"1234"),
    "negative shape": pack(b'{"a":' + entry(shape="[-4]") + b"}", b"1234"),
    "size of 2^64": pack(b'{"a":' + entry(shape="[4294967296,4294967296]", offsets="[0,0]") + b"}", b""),
    "three offsets": pack(b'{"a":' + entry(offsets="[0,4,4]") + b"}", b"1234"),
    "begin after end": pack(b'{"a":' + entry(offsets="[4,0]") + b"}", b"1234"),
    "size too small": pack(b'{"a":' + entry(shape="[3]") + b"}", b"1234"),
    "cut in the data": pack(A, b"123"),
    "bytes left over": pack(A, b"12345"),
    "hole": pack(b'{"a":' + entry(offsets="[1,5]") + b"}", b"12345"),
    "overlap": pack(b'{"a":' + entry() + b',"b":' + entry(offsets="[3,7]") + b"}", b"1234567"),
    "the same bytes": pack(b'{"a":' + entry() + b',"b":' + entry() + b"}", b"1234"),
    "empty tensor inside another": pack(
        b'{"a":' + entry() + b',"b":' + entry(shape="[0]", offsets="[1,1]") + b"}", b"1234"
    ),
}
# What we refuse on purpose: the README of the format forbids the first two; a writer that does the others is broken.
ONLY_WE_REFUSE = {
    "space before {": pack(b" " + A, b"1234"),
    "tensor twice": pack(b'{"a":' + entry() + b',"a":' + entry() + b"}", b"1234"),
    "metadata key twice": pack(b'{"__metadata__":{"a":"1","a":"2"}}', b""),
    "unknown key": pack(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}}', b"1234"),
    "entry as a list": pack(b'{"a":["U8",[4],[0,4]]}', b"1234"),
    "65 axes": pack(b'{"a":' + entry(shape=f"[4{',1' * 64}]") + b"}", b"1234"),
    "BOOL of 2": pack(b'{"a":' + entry("BOOL") + b"}", b"\0\1\2\1"),
}
# -0 is 0 for us, and a float for the official reader.
ONLY_WE_TAKE = {"minus zero": pack(b'{"a":' + entry(offsets="[-0,4]") + b"}", b"1234")}


@pytest.mark.parametrize(
    ("raw", "they_take", "we_take"),
    [
        pytest.param(raw, they, we, id=name)
        for cases, they, we in [
            (BOTH_TAKE, True, True),
            (BOTH_REFUSE, False, False),
            (ONLY_WE_REFUSE, True, False),
            (ONLY_WE_TAKE, False, True),
        ]
        for name, raw in cases.items()
    ],
)
def test_who_takes_what(tmp_path, raw, they_take, we_take):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    assert (official(path) is not None) == they_take
    assert (ours(path) is not None) == we_take


def test_what_the_official_reader_refuses_we_refuse_and_else_we_agree(tmp_path):
    """4,000 damaged copies of a small file: a byte changed, taken out or put in, anywhere."""
    dice = random.Random(0)
    path = tmp_path / "x.safetensors"
    tensors = {"a": raw_tensor("F32", (2, 3)), "b": raw_tensor("I16", ()), "c": raw_tensor("U8", (0, 2))}
    sound = safetensors.torch.save(tensors, metadata={"format": "pt"})
    both = 0
    for _ in range(4000):
        at = dice.randrange(len(sound))
        raw = sound[:at] + dice.choice([b"", dice.randbytes(1), b"0", b" ", b'"']) + sound[at + dice.randrange(2) :]
        path.unlink(missing_ok=True)
        path.write_bytes(raw)
        theirs, found = official(path), ours(path)
        if theirs is None:
            assert found is None or b"-0" in raw, raw
        elif found is not None:
            both += 1
            assert found.keys() == theirs.keys()
            for name, tensor in theirs.items():
                assert_same_bits(found[name], tensor)
    assert both > 500

"""What numgpt does not read is refused by its name, wherever a user meets it, with what helps instead."""

import pytest
from support import pickles
from support.checkpoints import CONFIG, Raw, hub_tensors, write_checkpoint, write_json, write_safetensors
from support.readers import fault, refusal, write

import numgpt
from numgpt.checkpoint.companions import companions
from numgpt.checkpoint.formats import find_weights
from numgpt.checkpoint.settings import config_from_json
from numgpt.cli import main as cli
from numgpt.errors import CheckpointError

FILES = {
    "model.onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", "an ONNX model"),
    "model.onnx_data": (bytes(64), "an ONNX model"),
    "any": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX model"),
    "model.mlmodel": (b"\x08\x04\x12\x10", "a Core ML model"),
    "openvino_model.xml": (b'<?xml version="1.0"?>\n<net name="gpt2">', "an OpenVINO model"),
    "openvino_model.bin": (bytes(64), "an OpenVINO model"),
    "64.tflite": (b"\x1c\0\0\0TFL3\x14\0\x20\0", "a TensorFlow Lite model"),
    "some": (b"\x1c\0\0\0TFL3\x14\0\x20\0", "a TensorFlow Lite model"),
    "saved_model.pb": (b"\x08\x01\x12", "a SavedModel of TensorFlow"),
    "ggjt.bin": (b"tjgg\3\0\0\0" + bytes(50), "a file of llama.cpp from before GGUF, which held no GPT-2"),
}
NAMED = [name for name in FILES if name not in ("any", "some", "ggjt.bin")]  # the others are known by how they begin
UNQUANTISED = "use the unquantised original, or a GGUF file of it"
INSTEAD = "use the original, in safetensors or as torch.save wrote it, or a GGUF file of it"


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_program_is_refused_by_name(tmp_path, name):
    raw, what = FILES[name]
    said = fault(write(tmp_path / name, raw), numgpt.load)
    assert said == f"it looks like {what}, which numgpt does not read: {INSTEAD}"


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["model.onnx"], "an ONNX model (model.onnx)"),
        (["onnx/decoder_model.onnx", "onnx/config.json"], "an ONNX model (decoder_model.onnx)"),
        (["model.mlpackage/Manifest.json"], "a Core ML model (model.mlpackage)"),
        (["openvino_model.bin", "openvino_model.xml"], "an OpenVINO model (openvino_model."),
        (["rust_model.ot"], "a model of rust-bert (rust_model.ot)"),
    ],
)
def test_a_folder_of_nothing_else_is_refused_by_name(tmp_path, names, what):
    write_json(tmp_path / "config.json", CONFIG)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"x")
    said = fault(tmp_path, numgpt.load)
    assert said.startswith(f"has no weights that numgpt reads, but {what}")
    assert said.endswith(f": {INSTEAD}")


def test_a_package_of_core_ml_is_known_by_its_own_name(tmp_path):
    (tmp_path / "gpt2.mlpackage").mkdir()
    write(tmp_path / "gpt2.mlpackage" / "Manifest.json", b"{}")
    assert "but a Core ML model (gpt2.mlpackage)" in fault(tmp_path / "gpt2.mlpackage", numgpt.load)


def test_beside_weights_that_are_read_they_are_no_hindrance_and_no_companions(tmp_path):
    folder = write_checkpoint(tmp_path / "m", name="own.safetensors")
    for name in NAMED:
        write(folder / name, b"x")
    assert find_weights(folder).name == "own.safetensors"
    assert numgpt.load(folder).config.n_layer == 2
    assert companions(folder) == []
    (folder / "own.safetensors").rename(folder / "own.bin")
    assert find_weights(folder).name == "own.bin"


def test_weights_of_every_format_are_no_companions(tmp_path):
    folder = write_checkpoint(tmp_path / "m")
    write(folder / "ggml-model-q4_0.bin", b"lmgg" + bytes(99))
    write(folder / "flax_model.msgpack", b"\x81\xa1a\xc0")
    write(folder / "notes.bin", b"notes")
    assert [path.name for path in companions(folder)] == ["notes.bin"]


# ---- quantised in other ways


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "AWQ"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True, "llm_int8_threshold": 6.0}, "bitsandbytes"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "hqq"}, "'hqq'"),
        ({"quant_method": "\x1b[2J" + 500 * "x"}, "'\\x1b[2Jxxxx"),
        ({"quant_method": ["gptq"]}, "a method that it does not name"),
        ({"bits": 4}, "a method that it does not name"),
        ("gptq", "a method that it does not name"),
    ],
)
def test_a_config_that_says_quantised_says_by_what(settings, method):
    with pytest.raises(CheckpointError) as caught:
        config_from_json({**CONFIG, "quantization_config": settings})
    said = str(caught.value)
    assert said.startswith(f"config.json: the weights are quantised by {method}")
    assert said.endswith(
        " (quantization_config), expected plain ones: use the unquantised original, or a GGUF file of it"
    )
    assert said.isprintable()
    assert len(said) < 300


def test_no_quantisation_is_none():
    for settings in None, {}, False:
        assert config_from_json({**CONFIG, "quantization_config": settings}) == config_from_json(CONFIG)


NAME = "transformer.h.0.attn.c_attn"
PACKED = [
    ("GPTQ", "g_idx", {"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"}),
    ("GPTQ or AWQ", "qweight", {"qweight": "I32", "qzeros": "I32", "scales": "F16"}),
    ("bitsandbytes", "SCB", {"weight": "I8", "SCB": "F32"}),
    ("bitsandbytes", "weight.absmax", {"weight": "U8", "weight.absmax": "U8", "weight.quant_map": "F32"}),
    ("bitsandbytes", "weight.quant_state.bitsandbytes__nf4", {"weight.quant_state.bitsandbytes__nf4": "U8"}),
]


@pytest.mark.parametrize(("method", "telling", "parts"), PACKED)
def test_tensors_say_so_where_the_config_does_not(tmp_path, capsys, method, telling, parts):
    tensors = {f"transformer.{name}": x for name, x in hub_tensors().items()}
    del tensors[f"{NAME}.weight"]
    widths = {"I32": 4, "F32": 4, "F16": 2, "I8": 1, "U8": 1}
    tensors |= {f"{NAME}.{part}": Raw(dtype, (2, 3), bytes(6 * widths[dtype])) for part, dtype in parts.items()}
    write_json(tmp_path / "config.json", CONFIG)
    write_json(tmp_path / "quantize_config.json", {"bits": 4})
    path = write_safetensors(tmp_path / "gptq_model-4bit-128g.safetensors", tensors)
    said = refusal(path, lambda _: numgpt.load(tmp_path))
    assert said.startswith(f"{path}: ")
    assert f": transformer.h.0.attn.c_attn.{telling}: quantised" in said or f": h.0.attn.c_attn.{telling}: q" in said
    assert said.endswith(
        f": quantised by {method}, expected plain numbers: use the unquantised original, or a GGUF file of it"
    )
    assert cli.main(["inspect", "-m", str(tmp_path)]) == 1
    assert f"quantised by {method}" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "method"), [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")])
def test_a_folder_of_quantised_weights_that_are_not_there_says_so(tmp_path, name, method):
    write_json(tmp_path / "config.json", CONFIG)
    write_json(tmp_path / name, {})
    assert fault(tmp_path, numgpt.load).startswith(f"the weights are quantised by {method} ({name}), expected plain")


# ---- programs


@pytest.mark.parametrize("entry", ["constants.pkl", "code/__torch__/model.py"])
@pytest.mark.parametrize("name", ["model.pt", "rust_model.ot"])
def test_an_archive_of_torchscript_is_refused_by_name(tmp_path, name, entry):
    raw = pickles.archive({}, {}, more={f"archive/{entry}": b"x"})
    said = fault(write(tmp_path / name, raw), numgpt.load)
    assert said.startswith("a TorchScript archive, a program with its weights, expected what torch.save writes: ")

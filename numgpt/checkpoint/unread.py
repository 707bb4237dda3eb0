"""What numgpt does not read, by name: files of other programs, and weights quantised in other ways than GGUF's.

Sources: the files that repositories of GPT-2 on the Hub hold; huggingface/transformers, quantizers/auto.py; AutoGPTQ,
AutoAWQ and bitsandbytes for the names of their tensors.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from numgpt.checkpoint.contract import Glance
from numgpt.checkpoint.files import brief, printable, wrong

INSTEAD = "use the original, in safetensors or as torch.save wrote it, or a GGUF file of it"
UNQUANTISED = "use the unquantised original, or a GGUF file of it"


class Kind(NamedTuple):
    """Files of another program."""

    what: str
    name: str  # a regular expression for all of a file's name
    start: bytes = b"(?!)"  # one for how it begins, where that tells


KINDS = (
    Kind("an ONNX model", r".+\.onnx(_data|\.data)?", rb"(?s)\x08.\x12.(pytorch|tf2onnx|onnx)"),
    Kind("a Core ML model", r".+\.(mlmodel|mlpackage|mlmodelc)"),
    Kind("an OpenVINO model", r"openvino_.+\.(xml|bin)"),
    Kind("a TensorFlow Lite model", r".+\.tflite", rb"(?s).{4}TFL3"),
    Kind("a SavedModel of TensorFlow", r"saved_model\.pb"),
    Kind("a model of rust-bert", r"rust_model\.ot"),
    Kind("a file of llama.cpp from before GGUF, which held no GPT-2", r"(?!)", rb"(fm|tj|al)gg"),
)
QUANTISED = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}  # what their programs put beside the weights
METHODS = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes"}
TENSORS = {  # what ends the names of tensors that only quantised weights have
    "bitsandbytes": (".SCB", "absmax", "quant_map", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"),
    "GPTQ": (".g_idx",),
    "GPTQ or AWQ": (".qweight", ".qzeros"),
}


def kind_of(names: Iterable[str]) -> str | None:
    """Tell what the files of some names are that numgpt does not read. None: none of them is known.

    >>> kind_of(["config.json", "onnx/decoder_model.onnx"]), kind_of(["model.safetensors"])
    ('an ONNX model (decoder_model.onnx)', None)
    """
    names = [name.rpartition("/")[2] for name in names]
    for kind in KINDS:
        for name in names:
            if re.fullmatch(kind.name, name, re.DOTALL):
                return f"{kind.what} ({printable(name)})"
    return None


def refuse_file(glance: Glance) -> None:
    """Raise CheckpointError where a file is known, by its name or by how it begins, to be one that is not read."""
    for kind in KINDS:
        if re.fullmatch(kind.name, glance.path.name, re.DOTALL) or re.match(kind.start, glance.start):
            raise wrong(glance.path, f"it looks like {kind.what}, which numgpt does not read", INSTEAD)


def refuse_names(where: object, names: Iterable[str]) -> None:
    """Raise CheckpointError where files, none of which holds weights for numgpt, are known to be what it can't read."""
    names = list(names)
    if kind := kind_of(names):
        raise wrong(where, f"has no weights that numgpt reads, but {kind}", INSTEAD)
    for name in names:
        if method := QUANTISED.get(name):
            raise wrong(where, f"the weights are quantised by {method} ({name}), expected plain ones", UNQUANTISED)


def refuse_method(where: object, settings: Any) -> None:
    """Raise CheckpointError where config.json says that the weights are quantised.

    settings  its quantization_config
    """
    if not settings:
        return
    values = settings if isinstance(settings, dict) else {}
    method = values.get("quant_method")
    if method is None and (values.get("load_in_8bit") or values.get("load_in_4bit")):
        method = "bitsandbytes"
    by = METHODS.get(method, brief(method)) if isinstance(method, str) else "a method that it does not name"
    raise wrong(where, f"the weights are quantised by {by} (quantization_config), expected plain ones", UNQUANTISED)


def refuse_tensors(where: object, tensors: Mapping[str, Any]) -> None:
    """Raise CheckpointError where the names of tensors say that they are quantised.

    >>> refuse_tensors("x", {"h.0.attn.c_attn.qweight": None})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    numgpt.errors.CheckpointError: x: h.0.attn.c_attn.qweight: quantised by GPTQ or AWQ, expected plain numbers: ...
    """
    for method, endings in TENSORS.items():
        if name := next((name for name in tensors if name.endswith(endings)), None):
            raise wrong(where, f"{printable(name)}: quantised by {method}, expected plain numbers", UNQUANTISED)

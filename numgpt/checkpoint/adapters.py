"""PEFT's LoRA adapters: a small change to the matrices of a base model, merged into it as it is read.

An adapter is a folder with two files, alone or in the folder of its base:

    adapter_config.json          how it is made: JSON, of which these count
        peft_type                LORA, the one kind that we read
        lora_alpha, use_rslora   the scale s of a module whose rank is r: alpha / r; with use_rslora alpha / sqrt(r)
        alpha_pattern            {regular expression: alpha} for some modules: the first that fits the end of the name,
                                 from a dot on
        trainable_token_indices  the rows of a table that trainable_tokens_delta has: a list, or {module: list}
        base_model_name_or_path  the base: a name, or a path on the machine of training
    adapter_model.safetensors    the tensors, or adapter_model.bin, as torch.save writes it

The name of a tensor is that of a module, such as base_model.model.transformer.h.0.attn.c_attn, and one of

    lora_A.weight [r, in], lora_B.weight [out, r]     W + s (B A)^T, where the base has W as [in, out];
                                                      lm_head is [out, in]: W + s B A
    lora_embedding_A [r, rows], lora_embedding_B [C, r]           a table [rows, C]: W + s (B A)^T
    lora_B.bias                                       bias + s lora_B.bias
    weight, bias, base_layer.weight, base_layer.bias  replace those of the base, before the above is added
    token_adapter.trainable_tokens_delta [n, C]       replaces n rows of a table, in spite of its name

A dump of a training run has ".default", the name of the adapter, inside. The rank is that of A: r, rank_pattern,
target_modules (a list or a regular expression), layers_to_transform and the like say what was trained, which the names
of the tensors say again. fan_in_fan_out is not to be trusted: PEFT itself corrects it for each module.

A tied head: a change of lm_head alone, or of wte alone, unties the two while the model is trained, and so they are
untied here. (PEFT's merge_and_unload changes both, which is another model than the one that was trained.) Rows of
trainable_tokens_delta stay tied.

What is refused, by name: other kinds than LORA, what replaces the sum above (use_dora and others), what changes the
base beside the tensors (init_lora_weights of pissa, olora, ...), heads of classifiers, and modules that GPT-2 has not.

Source: huggingface/peft 0.21, src/peft/tuners/lora/{config,layer}.py and utils/{save_and_load,other}.py.
"""

import math
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.files import brief, parse_json, place_of, printable, read_small, wrong
from numgpt.checkpoint.formats import find_weights, look_at, named_weights
from numgpt.checkpoint.names import FLOATS, hub_name, match_params
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
MERGE_IT = "merge it into its base with PEFT, and load the result"
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # of training, which leave the base as it is
PLAIN_SETTINGS = ("use_rslora", "loftq_config", "eva_config", "megatron_config", "runtime_config")
OTHER_METHODS = ("alora_invocation_tokens", "target_parameters", "layer_replication")
TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")
PREFIXES = r"^((transformer|module|_orig_mod)\.)+"  # of the modules of its base
TABLES = ("wte", "wpe", "lm_head")
PARTS = (
    r"(?:base_model\.model\.)?(.+?)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B|"
    r"token_adapter\.trainable_tokens_delta|base_layer\.weight|base_layer\.bias|weight|bias)"
)
MAX_PATTERN = 200  # characters of a regular expression
PATTERN_SECONDS = 0.5  # for all of them together


class _Module(NamedTuple):
    """What an adapter has for one module of the model."""

    path: Path  # of the file
    name: str  # as the adapter has it
    parts: dict[str, LazyTensor]
    alpha: float
    rslora: bool
    rows: list[int] | None  # trainable_token_indices

    def wrong(self, part: str, fault: str) -> CheckpointError:
        return wrong(place_of(self.path, f"{self.name}.{part}"), fault, "the adapter is damaged, or of another model")


def find_adapter(path: Path) -> Path | None:
    """Return the folder of the adapter that a path stands for: the folder, or one of its files. None: it is none."""
    folder = path if path.is_dir() else path.parent
    if path != folder and path.name not in (CONFIG, *WEIGHTS):
        return None
    return folder if any((folder / name).is_file() for name in (CONFIG, *WEIGHTS)) else None


def adapter_weights(folder: Path) -> Path | None:
    """Return the file with the tensors of the adapter in a folder, or None."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def base_name(folder: Path) -> str | None:
    """Return the name or the path of its base, as an adapter says it; None where it says none, or lies beside it."""
    name = _read_config(folder).get("base_model_name_or_path")
    if name is not None and not isinstance(name, str):
        raise wrong(folder / CONFIG, f"base_model_name_or_path is {brief(name)}, expected a name")
    return None if base_beside(folder) else name or None


def base_beside(folder: Path) -> Path | None:
    """Return the weights of the base that lies in the folder of an adapter, or None."""
    if named := named_weights(folder):
        return named
    try:
        return find_weights(folder) if (folder / "config.json").is_file() else None
    except CheckpointError:  # a training run leaves other files of PyTorch beside an adapter
        return None


def merge(folder: Path, base: Opened) -> Opened:
    """Merge an adapter into its base.

    folder  of the adapter
    base    the checkpoint that it changes
    Returns the base with the changed tensors in place of its own. Each is computed when it is read, in float32, or in
    float64 where the base has that.
    Raises CheckpointError where the adapter is damaged, of another model, or of a kind that is not LoRA.
    """
    config = _read_config(folder)
    path = adapter_weights(folder)
    if path is None:
        expected = f"expected {' or '.join(WEIGHTS)} beside it"
        raise wrong(folder / CONFIG, f"the tensors of the adapter are not there, {expected}", "copy them there")
    stored = _read(path)
    modules = _sort(path, stored, config)

    given, base_config = match_params(base.hub_tensors, base.config, source=str(base.weights))
    tensors = {hub_name(leaf): tensor for leaf, tensor in given.items()}
    own = dict(tensors)  # the base's
    wte, head = modules.get("wte"), modules.get("lm_head")
    if "lm_head.weight" not in tensors:
        resized = wte and "weight" in wte.parts and wte.parts["weight"].shape != own["wte.weight"].shape
        if head or (wte and not resized and wte.parts.keys() & {"lora_embedding_A", "weight", "base_layer.weight"}):
            tensors["lm_head.weight"] = own["wte.weight"]
    merged: dict[str, str] = {}
    for name, module in modules.items():
        if f"{name}.weight" not in tensors:
            raise wrong(place_of(path, module.name), "is no module of this GPT-2", "the adapter is of another model")
        merged |= _merge_module(name, module, tensors)
    base_config = base_config._replace(n_vocab=tensors["wte.weight"].shape[0])
    if base_config.eos_token_id is not None and base_config.eos_token_id >= base_config.n_vocab:
        base_config = base_config._replace(eos_token_id=None)
    return base._replace(
        weights=path,
        kind=f"LoRA adapter of {base.weights}",
        tensors={**base.tensors, **stored},
        hub_tensors=tensors,
        config=base_config,
        check=None,
        merged=merged,
    )


def _read(path: Path) -> dict[str, LazyTensor]:
    """Open the tensors of an adapter, of either format."""
    from numgpt.checkpoint import pytorch, safetensors  # here, as most checkpoints are no adapters

    glance = look_at(path)
    if pytorch.is_mine(glance) and not safetensors.is_mine(glance):
        return pytorch.read_pytorch(path)
    return safetensors.read_safetensors(path)


def _read_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json, once it is sure that it is one of plain LoRA."""
    path = folder / CONFIG
    if not path.is_file():
        raise wrong(path, "no such file, expected it beside the tensors of the adapter", "copy it there")
    config = parse_json(path, read_small(path))
    if (kind := config.get("peft_type")) != "LORA":
        raise wrong(path, f"peft_type is {brief(kind)}, expected 'LORA'", MERGE_IT)
    for key, value in config.items():
        other = (key.startswith("use_") or key.endswith("_config")) and key not in PLAIN_SETTINGS
        if value and (other or key in OTHER_METHODS):
            raise wrong(path, f"{printable(key)} is {brief(value)}, expected plain LoRA", MERGE_IT)
    start, task = config.get("init_lora_weights"), config.get("task_type")
    if start not in PLAIN_STARTS:
        raise wrong(path, f"init_lora_weights is {brief(start)}, which changes the base, expected plain LoRA", MERGE_IT)
    if task not in TASKS:
        raise wrong(path, f"task_type is {brief(task)}, expected 'CAUSAL_LM'", "numgpt has no other head")
    return config


def _sort(path: Path, stored: dict[str, LazyTensor], config: dict[str, Any]) -> dict[str, _Module]:
    """Return the parts of the adapter, module by module."""
    parts: dict[str, dict[str, LazyTensor]] = defaultdict(dict)
    names: dict[str, str] = {}
    for name, tensor in stored.items():
        if tensor.dtype not in FLOATS:
            raise wrong(place_of(path, name), f"dtype {tensor.dtype}, expected one of {', '.join(FLOATS)}")
        if "lora_magnitude_vector" in name:
            raise wrong(place_of(path, name), "a part of DoRA, expected plain LoRA", MERGE_IT)
        match = re.fullmatch(PARTS, name.replace(".modules_to_save", "").replace(".default", ""))
        if not match:
            raise wrong(place_of(path, name), "is no part of a LoRA adapter that numgpt knows", MERGE_IT)
        module, part = re.sub(PREFIXES, "", match[1]), match[2]
        if part in parts[module]:
            raise wrong(place_of(path, name), "is there twice, under different names, expected it once")
        names[module], parts[module][part] = match[1], tensor
    alphas = _Alphas(path.parent / CONFIG, config)
    return {
        module: _Module(path, names[module], parts[module], alphas.of(name), alphas.rslora, _rows(path, config, name))
        for module, name in names.items()
    }


class _Alphas:
    """The alpha of each module. Regular expressions of strangers could run for ever: they have half a second."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        import regex  # unlike re it can be told to give up

        self.path, self.deadline = path, monotonic() + PATTERN_SECONDS
        self.rslora = config.get("use_rslora", False) is True
        self.default = self._number("lora_alpha", config.get("lora_alpha", 8))
        self.patterns = []
        patterns = config.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise wrong(path, f"alpha_pattern is {brief(patterns)}, expected an object")
        for key, alpha in patterns.items():
            try:
                if len(key) > MAX_PATTERN or "{" in key:
                    raise ValueError
                pattern = regex.compile(rf"(.*\.)?({key})$")
            except (ValueError, RecursionError, regex.error):
                fault = f"alpha_pattern has {brief(key)}, expected a short regular expression"
                raise wrong(path, fault) from None
            self.patterns.append((pattern, self._number(f"alpha_pattern of {printable(key)}", alpha)))
            self._left()

    def of(self, module: str) -> float:
        """Return the alpha of a module."""
        for pattern, alpha in self.patterns:
            try:
                if pattern.match(module, timeout=self._left()):
                    return alpha
            except TimeoutError:
                self.deadline = 0
                self._left()
        return self.default

    def _number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise wrong(self.path, f"{key} is {brief(value)}, expected a number")
        return float(value)

    def _left(self) -> float:
        if (left := self.deadline - monotonic()) <= 0:
            fault = f"the regular expressions of alpha_pattern need more than {PATTERN_SECONDS} s, expected simple ones"
            raise wrong(self.path, fault, "name the modules instead")
        return left


def _rows(path: Path, config: dict[str, Any], module: str) -> list[int] | None:
    """Return the rows of a table that an adapter replaces, as adapter_config.json says them."""
    rows = config.get("trainable_token_indices")
    if isinstance(rows, dict):
        rows = next((each for key, each in rows.items() if module == key or module.endswith(f".{key}")), None)
    if rows is None or (isinstance(rows, list) and all(type(row) is int for row in rows)):
        return rows
    raise wrong(path.parent / CONFIG, f"trainable_token_indices is {brief(rows)}, expected a list of ids")


def _merge_module(name: str, module: _Module, tensors: dict[str, LazyTensor]) -> dict[str, str]:
    """Put the changed tensors of a module in the place of those of the base. Returns what was changed, and how."""
    parts, merged = dict(module.parts), {}
    for kind in ("weight", "bias"):
        for part in (kind, f"base_layer.{kind}"):
            if (tensor := parts.pop(part, None)) is None:
                continue
            target = f"{name}.{kind}"
            old = tensors.get(target)
            grows = target in ("wte.weight", "lm_head.weight")
            if old is None or tensor.shape[grows:] != old.shape[grows:] or len(tensor.shape) != len(old.shape):
                raise module.wrong(part, f"shape {tensor.shape}, expected {old.shape if old else 'no such tensor'}")
            if target in merged:
                raise module.wrong(part, "is there twice, expected it once")
            tensors[target], merged[target] = tensor, "replaced"
    if rows := parts.pop("token_adapter.trainable_tokens_delta", None):
        merged |= _replace_rows(name, module, rows, tensors)
    if not parts:
        return merged

    table = {"lora_embedding_A", "lora_embedding_B"} if name in ("wte", "wpe") else {"lora_A.weight", "lora_B.weight"}
    if missing := table - parts.keys():
        raise module.wrong(min(missing), "is missing, expected it beside its other half")
    if strange := parts.keys() - table - {"lora_B.bias"}:
        raise module.wrong(min(strange), "is no part of this module")
    (_, a), (_, b) = sorted((part, parts[part]) for part in table)
    weight = tensors[f"{name}.weight"]
    if len(weight.shape) != 2:
        raise module.wrong(min(table), f"belongs to a matrix, but {name} is none")
    transposed = name != "lm_head"
    into, out = weight.shape if transposed else weight.shape[::-1]
    rank = a.shape[0] if a.shape else 0
    if rank < 1 or a.shape != (rank, into) or b.shape != (out, rank):
        raise module.wrong(
            min(table), f"A has the shape {a.shape} and B {b.shape}, expected (r, {into}) and ({out}, r)"
        )
    scale = module.alpha / (math.sqrt(rank) if module.rslora else rank)
    how = f"LoRA of rank {rank}, scale {scale:g}"
    dtype = "F64" if weight.dtype == "F64" else "F32"
    read = partial(_add, weight, a, b, scale, transposed)
    tensors[f"{name}.weight"] = LazyTensor(dtype, weight.shape, read)
    merged[f"{name}.weight"] = f"{merged.get(f'{name}.weight', '')}, {how}".removeprefix(", ")
    if (change := parts.get("lora_B.bias")) is not None:
        bias = tensors.get(f"{name}.bias")
        if bias is None or change.shape != bias.shape:
            raise module.wrong("lora_B.bias", f"shape {change.shape}, expected that of the bias of {name}")
        tensors[f"{name}.bias"] = LazyTensor("F32", bias.shape, partial(_add_vector, bias, change, scale))
        merged[f"{name}.bias"] = how
    return merged


def _replace_rows(name: str, module: _Module, rows: LazyTensor, tensors: dict[str, LazyTensor]) -> dict[str, str]:
    part, table, indices = "token_adapter.trainable_tokens_delta", tensors[f"{name}.weight"], module.rows
    if name not in TABLES or indices is None:
        raise module.wrong(part, "has no trainable_token_indices, expected those of a table")
    n = table.shape[0]
    if rows.shape != (len(indices), *table.shape[1:]) or not all(0 <= row < n for row in indices):
        raise module.wrong(
            part, f"shape {rows.shape} for {len(indices)} rows, expected as many rows of {table.shape}, below {n}"
        )

    def read() -> np.ndarray:
        whole = table.read()
        whole[indices] = rows.read()
        return whole

    tensors[f"{name}.weight"] = LazyTensor("F64" if table.dtype == "F64" else "F32", table.shape, read)
    return {f"{name}.weight": f"{len(indices)} rows replaced"}


def _add(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, transposed: bool) -> np.ndarray:
    """W + s (B A)^T, or W + s B A."""
    w, down, up = weight.read(), a.read(), b.read()
    with np.errstate(all="ignore"):
        w += w.dtype.type(scale) * (down.T @ up.T if transposed else up @ down)
    return w


def _add_vector(bias: LazyTensor, change: LazyTensor, scale: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        return bias.read() + np.float32(scale) * change.read()

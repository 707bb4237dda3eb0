"""Load a checkpoint by its name, or by its path: find it on this machine, else fetch it, and read it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numgpt.checkpoint.adapters import base_name, find_adapter
from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.reading import (
    WEIGHTS,
    Unreadable,
    find_tokenizer,
    float_dtype,
    open_checkpoint,
    read_model,
    tokenizer_beside,
)
from numgpt.checkpoint.settings import NOTHING, check_given
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.checks import check_option
from numgpt.errors import CheckpointError, DownloadError, OptionError
from numgpt.fast.tokenizer import Tokenizer
from numgpt.hub.folders import find, list_names, weights_folder
from numgpt.hub.registry import KNOWN, is_name
from numgpt.model import Model

GPT2_VOCABULARY = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "124M", "355M", "774M", "1558M")


def load(
    name_or_path: str | os.PathLike[str],
    dtype: Any = None,
    progress: Any = None,
    base: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    layer_at_a_time: bool = False,
    **given: Any,
) -> Model:
    """Read a checkpoint.

    name_or_path  a folder; a file of weights, or the index of several, with config.json beside it; or a name:
                  "storyteller", which comes with numgpt, that of a folder in `weights_folder()`, or one to download;
                  or the folder of an adapter of PEFT, which is merged into its base
    dtype         float32 or float64: convert to it. None: those two stay, F16 and BF16 are widened to float32
    progress      shows how a download gets on; see `numgpt.hub.download`
    base          of an adapter, a name or a path. None: beside it, else the one that it names
    weights       "int8": keep the matrices in whole numbers of 8 bits, in a bit more than a quarter of the memory;
                  "keep": those in F16 and BF16 as they are, in half of it; see `numgpt.fast.matrices`. None: float32
    layer_at_a_time  leave the layers in their file, for a model that does not fit into memory: each pass reads them
                  anew, one at a time. `score`, `trace` and `verify` go through a text in one pass
    given         what no tensor tells, where no file says it or says it wrongly: n_head, activation_function,
                  layer_norm_epsilon, scale_attn_weights, scale_attn_by_inverse_layer_idx, eos_token_id
    Returns a Model. Its tokenizer is None where there are no tokenizer files.
    Raises CheckpointError where there is no such checkpoint, or it is damaged, incomplete or no GPT-2; DownloadError;
    OptionError for another dtype, for float64 with `weights`, or for something else that is given.

    >>> model = load("storyteller")
    >>> model.config.n_layer, model.params["wte"].shape, len(model.tokenizer)
    (6, (4096, 256), 4096)
    """
    target = None if dtype is None else float_dtype(dtype)
    check_option("weights", weights, weights in (None, *WEIGHTS), f"{' or '.join(WEIGHTS)}, or None")
    if weights and target == "float64":
        raise OptionError(
            f"dtype is 'float64', expected float32 or none beside weights={weights!r}, which need no other"
        )
    return read_model(open_named(name_or_path, base, given, progress), target, weights, layer_at_a_time)


def load_tokenizer(
    name_or_path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None, **given: Any
) -> Tokenizer | None:
    """Read the tokenizer of a checkpoint, without its weights. That of OpenAI's models comes with numgpt.

    name_or_path  as for load; a folder may have the files of a tokenizer alone, a GGUF file a vocabulary alone
    base, given   as for load
    Returns a Tokenizer; None where there are no tokenizer files.
    Raises CheckpointError where there is no such checkpoint, or its tokenizer is damaged or of another kind;
    DownloadError.

    >>> load_tokenizer("gpt2").encode("Hello world")
    [15496, 995]
    """
    path = find(name_or_path)
    if path is None and name_or_path in GPT2_VOCABULARY:
        return gpt2()
    path = path or locate(name_or_path)
    found = tokenizer_beside(path)
    if found is None:
        found = find_tokenizer(open_named(path, base, given))
    if isinstance(found, Unreadable):
        raise found.error
    return found


def open_named(
    name_or_path: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    given: Mapping[str, Any] = NOTHING,
    progress: Any = None,
) -> Opened:
    """Open a checkpoint without reading its tensors: find it, or fetch it, and of an adapter its base too.

    All as for load. Raises as load does.
    """
    given = check_given(given)
    path = locate(name_or_path, progress)
    return open_checkpoint(path, locate_base(path, base, progress), given)


def locate_base(path: Path, base: str | os.PathLike[str] | None = None, progress: Any = None) -> Path | None:
    """Return where the base of an adapter lies; None where it lies beside it, where it has no name, or for no adapter.

    base  its name or path, where it is not the one that the adapter names
    Raises CheckpointError or DownloadError, which names the base, where it is not found.
    """
    if base is not None:
        return locate(base, progress)
    adapter = find_adapter(path)
    name = None if adapter is None else base_name(adapter)
    if name is None:
        return None
    try:
        return locate(name, progress)
    except (CheckpointError, DownloadError) as error:
        raise type(error)(f"{adapter}: an adapter of {name!r:.200}: give its base by --base; {error}") from None


def locate(name_or_path: str | os.PathLike[str], progress: Any = None) -> Path:
    """Return where a checkpoint lies; fetch it first where it has to be.

    Looked up in this order: a path, the bundled model, the folder of checkpoints, the Hugging Face cache, a download
    into the folder of checkpoints.
    progress  shows how the download gets on; see `numgpt.hub.download`
    Raises CheckpointError where there is none, with the places that were searched; DownloadError.
    """
    if path := find(name_or_path):
        return path
    name = os.fspath(name_or_path)
    if is_name(name):
        from numgpt.hub.download import download  # what is here already is found without it

        try:
            return download(name, weights_folder() / name, progress=progress)
        except DownloadError as error:
            if name in KNOWN:
                raise
            said = f"{name}: no such file or folder here{meant(name)}; and as a name on the Hub: {error}"
            raise DownloadError(said) from None
    raise CheckpointError(
        f"no checkpoint {name!r:.200}: no such file or folder, not in {weights_folder()}, and no name of one to "
        f"download{meant(name)}; `numgpt models` lists what is known and at hand"
    )


def meant(name: str) -> str:
    """Return a question, where a name is nearly that of a checkpoint that is known or at hand.

    >>> meant("gpt-2"), meant("my/own")
    (': did you mean gpt2?', '')
    """
    from difflib import get_close_matches  # here, as what is found needs none

    near = get_close_matches(name.lower(), [other for other in list_names() if other != name], n=1, cutoff=0.8)
    return f": did you mean {near[0]}?" if near else ""

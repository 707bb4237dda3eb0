"""The sizes and switches of a model: what its tensors, its files and the caller say of them, to a Config; and back.

Who says what, and who is believed:

    the tensors   n_vocab, n_ctx, n_inner by their shapes, whatever a file says: a table has the rows that it has
                  n_embd, n_layer where no file says them; where one does and they differ, that is an error
    a file        config.json of the Hub, hparams.json of OpenAI, the configuration in a file of PyTorch: n_head, the
                  activation, epsilon and the switches, which no shape can tell
    the caller    the same, before any file
    nobody        n_head is asked for; the others are those of GPT-2, the activation is that of the layout
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numgpt.checkpoint.files import parse_json, read_small
from numgpt.checkpoint.names import sizes_of
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.checkpoint.unread import refuse_method
from numgpt.checks import check_option
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.ops import ACTIVATIONS

# Our name for a size, and those under which files give it: the Hub's config.json, with its aliases, and nanoGPT. (Old
# files have n_ctx beside n_positions, and only the latter counts; OpenAI's hparams.json has n_ctx and n_vocab.)
SIZES = {
    "n_vocab": ("n_vocab", "vocab_size"),
    "n_ctx": ("n_positions", "max_position_embeddings", "block_size"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_head": (
        "n_head",
        "num_attention_heads",
        "n_heads",
        "num_heads",
        "n_attention_heads",
        "attention_heads",
        "heads",
    ),
    "n_layer": ("n_layer", "num_hidden_layers"),
}
ACTIVATION = ("activation_function", "activation", "hidden_act")
EPSILON = ("layer_norm_epsilon", "layer_norm_eps", "ln_eps")
ALIASES = {name for names in (*SIZES.values(), ACTIVATION, EPSILON) for name in names}  # and the names themselves
SYNONYMS = {  # names that Transformers has for the same two functions
    "gelu_python": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
}
GIVEN = {  # what the caller may say: no shape tells it
    "n_head": int,
    "activation_function": str,
    "layer_norm_epsilon": float,
    "scale_attn_weights": bool,
    "scale_attn_by_inverse_layer_idx": bool,
    "eos_token_id": int,
}
NOTHING: Mapping[str, Any] = {}

# What would change the result and is not GPT-2: each of these must be absent, null, false or empty.
REFUSED = ("add_cross_attention", "is_encoder_decoder", "pruned_heads")


def read_config(folder: Path) -> Config:
    """Read the config.json of a folder, or OpenAI's hparams.json.

    Raises CheckpointError where they are missing, damaged or not of a GPT-2.
    """
    return read_settings(folder)[0]


def read_settings(
    folder: Path,
    tensors: Mapping[str, LazyTensor] = NOTHING,
    given: Mapping[str, Any] = NOTHING,
    activation: str = "gelu_new",
) -> tuple[Config, dict[str, Any]]:
    """Read the configuration of a folder, and what else its config.json says.

    Where there is a generation_config.json, it alone says which ids begin and end a text, as in Transformers.

    tensors     in the Hub's layout, for the sizes that their shapes say
    given       what the caller says, as check_given returns it
    activation  the one that counts where nobody says it; of a model_type it is that of Transformers
    Returns the Config, and all values of config.json: {} where hparams.json is there in its place.
    Raises CheckpointError as read_config does, but not where the tensors and the caller say all that is needed.
    """
    hub, openai = (folder / name for name in ("config.json", "hparams.json"))
    path = hub if hub.exists() or not openai.exists() else openai
    if path.exists():
        try:
            values = json.loads(read_small(path))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: not JSON ({error})") from None
        source = str(path)
    elif "n_embd" in sizes_of(tensors):
        values, source = {}, f"{path}: no such file"
    else:
        raise CheckpointError(f"{path}: no such file, expected it beside the weights, for the sizes of the model")
    config = config_from_json(values, source, tensors, given, activation)
    generation = folder / "generation_config.json"
    if generation.exists():
        config = _with_ends(config, {**parse_json(generation, read_small(generation)), **given}, str(generation))
    return config, values if path == hub else {}


def config_from_json(
    values: Any,
    source: str = "config.json",
    tensors: Mapping[str, LazyTensor] = NOTHING,
    given: Mapping[str, Any] = NOTHING,
    activation: str = "gelu_new",
) -> Config:
    """Read the Config out of a parsed config.json of the Hub, hparams.json of OpenAI or the model_args of nanoGPT.

    values  the parsed JSON
    source  the name of the file, for messages
    tensors, given, activation  as for read_settings
    Returns a Config. Keys that change nothing (dropout, summary_*, task_specific_params, ...) are passed over;
    those missing have the defaults that Transformers gives them.
    Raises CheckpointError where a value is impossible, where the file describes another model than GPT-2, and where
    there are tensors and nobody says n_head.
    Notes: n_positions counts where n_ctx says something else, since it is the one that sizes the embedding.
    eos_token_id may be a list of ids, each of which ends a text. One outside the vocabulary can't occur, and is
    passed over.
    Source: configuration_gpt2.py of Transformers; model.py of OpenAI's release.

    >>> config_from_json({"model_type": "gpt2", "n_embd": 32, "n_head": 4, "vocab_size": 100}).n_vocab
    100
    """

    def wrong(what: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(f"{source}: {what} is {value!r:.80}, expected {expected}: damaged, or not of a GPT-2?")

    def get(key: str, kind: type, default: Any) -> Any:
        value = values.get(key)
        if value is not None and type(value) is not kind:
            raise wrong(key, value, {int: "an integer", bool: "true or false", str: "a string"}[kind])
        return default if value is None else value

    if not isinstance(values, dict):
        raise wrong("the content", values, "a JSON object")
    _refuse_other_models(values, source)
    values = {**values, **{key: value for key, value in given.items() if key != "n_head"}}

    sizes: dict[str, Any] = {}
    shapes = sizes_of(tensors)
    for name, keys in SIZES.items():
        said = {key: get(key, int, None) for key in keys if values.get(key) is not None}
        if name == "n_head" and "n_head" in given:
            said = {"n_head": given["n_head"]}
        if len(set(said.values())) > 1:
            raise wrong(" or ".join(said), list(said.values()), "the same")
        size = next(iter(said.values()), get(name, int, None))
        if name in shapes and (size is None or name in ("n_vocab", "n_ctx")):
            size = shapes[name]
        if size is None and name == "n_head" and tensors and values.get("model_type") is None:
            raise CheckpointError(
                f"{source}: nothing says n_head, the number of heads, which no tensor tells: add --set n_head=N to the "
                f"command (in Python n_head=N), where N divides the width, {sizes['n_embd']}"
            )
        sizes[name] = getattr(Config(), name) if size is None else size
    sizes["n_inner"] = get("n_inner", int, None)
    if "n_inner" in shapes and shapes["n_inner"] != (sizes["n_inner"] or 4 * sizes["n_embd"]):
        sizes["n_inner"] = shapes["n_inner"]
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise wrong(name, size, "1 or more")
    if sizes["n_embd"] % sizes["n_head"]:
        raise wrong("n_embd", sizes["n_embd"], f"a multiple of n_head, {sizes['n_head']}")

    key = _stated(values, EPSILON)
    eps = 1e-5 if values.get(key) is None else values[key]
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise wrong(key, eps, "a number from 0 to 1")

    key = _stated(values, ACTIVATION)
    name = get(key, str, activation if values.get("model_type") is None else "gelu_new")
    name = SYNONYMS.get(name, name)
    if name not in ACTIVATIONS:
        raise wrong(key, name, f"one of {', '.join(ACTIVATIONS)}")

    return _with_ends(
        Config(
            **sizes,
            layer_norm_epsilon=float(eps),
            activation_function=name,
            scale_attn_weights=get("scale_attn_weights", bool, True),
            scale_attn_by_inverse_layer_idx=get("scale_attn_by_inverse_layer_idx", bool, False),
            tie_word_embeddings=get("tie_word_embeddings", bool, True),
        ),
        {"eos_token_id": 50256, "bos_token_id": 50256, **values},
        source,
    )


def _with_ends(config: Config, values: dict[str, Any], source: str) -> Config:
    """Return the config with the ids that begin and end a text: eos_token_id is one id there, several or none."""
    ends, start = values.get("eos_token_id"), values.get("bos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    for key, ids in ("eos_token_id", ends), ("bos_token_id", [] if start is None else [start]):
        for i in ids:
            if type(i) is not int:
                expected = "one id, a list of ids, or null" if key == "eos_token_id" else "one id, or null"
                fault = f"{key} is {values[key]!r:.80}, expected {expected}"
                raise CheckpointError(f"{source}: {fault}: damaged, or not of a GPT-2?")
    known = range(config.n_vocab)
    ends = list(dict.fromkeys(i for i in ends if i in known))
    return config._replace(
        eos_token_id=ends[0] if ends else None,
        more_eos_ids=tuple(ends[1:]),
        bos_token_id=start if start in known and start != (ends or [None])[0] else None,
    )


def says_heads(values: Any) -> bool:
    """Tell whether a configuration, whoever wrote it, says the number of heads."""
    return isinstance(values, dict) and any(type(values.get(key)) is int for key in SIZES["n_head"])


def check_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check what the caller says of a model, and return it. Raises OptionError for what a shape tells, or nothing.

    >>> check_given({"n_head": 12})
    {'n_head': 12}
    >>> check_given({"n_layer": 12})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    numgpt.errors.OptionError: n_layer is 12, expected one of n_head, ...: the tensors say all other sizes
    """
    checked = {}
    for name, value in given.items():
        if name not in GIVEN:
            check_option(name, value, False, f"one of {', '.join(GIVEN)}: the tensors say all other sizes")
        if GIVEN[name] is float and type(value) is int:
            value = float(value)
        check_option(name, value, type(value) is GIVEN[name], f"a value of the type {GIVEN[name].__name__}")
        if name == "n_head":
            check_option(name, value, value >= 1, "1 or more")
        if name == "layer_norm_epsilon":
            check_option(name, value, 0 <= value <= 1, "a number from 0 to 1")
        if name == "activation_function":
            value = SYNONYMS.get(value, value)
            check_option(name, value, value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        checked[name] = value
    return checked


def parse_given(texts: Iterable[str]) -> dict[str, Any]:
    """Read what the caller says out of texts such as n_head=12. Raises OptionError as check_given does.

    >>> parse_given(["n_head=12", "activation_function=gelu"])
    {'n_head': 12, 'activation_function': 'gelu'}
    """
    given: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        check_option("--set", text, bool(name and sign and value), "NAME=VALUE, as in n_head=12")
        try:
            given[name] = value if GIVEN.get(name) is str else json.loads(value)
        except (ValueError, RecursionError):
            given[name] = value
    return check_given(given)


def with_given(config: Config, given: Mapping[str, Any], source: object) -> Config:
    """Return a Config in which what the caller says counts. Raises CheckpointError where it does not fit the sizes."""
    config = config._replace(**given)
    if config.n_embd % config.n_head:
        raise CheckpointError(
            f"{source}: n_head is {config.n_head}, expected a divisor of the width, {config.n_embd}: give another"
        )
    if "eos_token_id" in given and not 0 <= given["eos_token_id"] < config.n_vocab:
        eos, last = given["eos_token_id"], config.n_vocab - 1
        raise CheckpointError(f"{source}: eos_token_id is {eos}, expected an id from 0 to {last}: give another")
    return config


def _stated(values: dict[str, Any], keys: tuple[str, ...]) -> str:
    """Return the first of several names of a value under which it stands; where it stands under none, the first."""
    return next((key for key in keys if values.get(key) is not None), keys[0])


def config_to_json(config: Config) -> dict[str, Any]:
    """Return what the Hub's config.json says of such a model: the inverse of config_from_json.

    >>> config = Config(n_ctx=512, activation_function="gelu")
    >>> config_from_json(config_to_json(config)) == config
    True
    """
    values = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **config._asdict()}
    for ours, theirs in ("n_vocab", "vocab_size"), ("n_ctx", "n_positions"):
        values[theirs] = values.pop(ours)
    del values["n_tokens"]  # follows from the tokenizer
    if more := values.pop("more_eos_ids"):
        values["eos_token_id"] = [config.eos_token_id, *more]
    return {**values, "bos_token_id": config.start_id}


def _refuse_other_models(values: dict[str, Any], source: str) -> None:
    """Raise CheckpointError, by name, for what numgpt would compute wrongly."""
    kind, architectures = values.get("model_type"), values.get("architectures") or ["GPT2LMHeadModel"]
    other = "numgpt runs GPT-2 and no other model"
    if kind not in (None, "gpt2"):
        raise CheckpointError(f"{source}: model_type is {kind!r:.80}, expected 'gpt2': {other}")
    if not (isinstance(architectures, list) and all(str(name).startswith("GPT2") for name in architectures)):
        raise CheckpointError(
            f"{source}: architectures is {architectures!r:.80}, expected ['GPT2LMHeadModel']: {other}"
        )
    refuse_method(source, values.get("quantization_config"))
    for key in REFUSED:
        if values.get(key):
            raise CheckpointError(f"{source}: {key} is {values[key]!r:.80}, which numgpt does not compute: {other}")

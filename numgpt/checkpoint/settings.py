"""The JSON of the Hub and of OpenAI: the sizes and switches of a model, to a Config and back."""

import json
from pathlib import Path
from typing import Any

from numgpt.checkpoint.files import parse_json, read_small
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.ops import ACTIVATIONS

# Our name for a size, and those under which files give it: the Hub's config.json, with its aliases, and nanoGPT. (Old
# files have n_ctx beside n_positions, and only the latter counts; OpenAI's hparams.json has n_ctx and n_vocab.)
SIZES = {
    "n_vocab": ("n_vocab", "vocab_size"),
    "n_ctx": ("n_positions", "max_position_embeddings", "block_size"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_layer": ("n_layer", "num_hidden_layers"),
}

# What would change the result and is not GPT-2: each of these must be absent, null, false or empty.
REFUSED = ("add_cross_attention", "is_encoder_decoder", "pruned_heads", "quantization_config")


def read_config(folder: Path) -> Config:
    """Read the config.json of a folder, or OpenAI's hparams.json.

    Raises CheckpointError where they are missing, damaged or not of a GPT-2.
    """
    return read_settings(folder)[0]


def read_settings(folder: Path) -> tuple[Config, dict[str, Any]]:
    """Read the configuration of a folder, and what else its config.json says.

    Where there is a generation_config.json, it alone says which ids begin and end a text, as in Transformers.

    Returns the Config, and all values of config.json: {} where hparams.json is there in its place.
    Raises CheckpointError as read_config does.
    """
    hub, openai = (folder / name for name in ("config.json", "hparams.json"))
    path = hub if hub.exists() or not openai.exists() else openai
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, expected it beside the weights, for the sizes of the model")
    try:
        values = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    config = config_from_json(values, source=str(path))
    generation = folder / "generation_config.json"
    if generation.exists():
        config = _with_ends(config, parse_json(generation, read_small(generation)), str(generation))
    return config, values if path == hub else {}


def config_from_json(values: Any, source: str = "config.json") -> Config:
    """Read the Config out of a parsed config.json of the Hub, hparams.json of OpenAI or the model_args of nanoGPT.

    values  the parsed JSON
    source  the name of the file, for messages
    Returns a Config. Keys that change nothing (dropout, summary_*, task_specific_params, ...) are passed over;
    those missing have the defaults that Transformers gives them.
    Raises CheckpointError where a value is impossible, and where the file describes another model than GPT-2.
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

    sizes = {}
    for name, keys in SIZES.items():
        given = {key: get(key, int, None) for key in keys if values.get(key) is not None}
        if len(set(given.values())) > 1:
            raise wrong(" or ".join(given), list(given.values()), "the same")
        sizes[name] = next(iter(given.values()), get(name, int, getattr(Config(), name)))
    sizes["n_inner"] = get("n_inner", int, None)
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise wrong(name, size, "1 or more")
    if sizes["n_embd"] % sizes["n_head"]:
        raise wrong("n_embd", sizes["n_embd"], f"a multiple of n_head, {sizes['n_head']}")

    eps = 1e-5 if values.get("layer_norm_epsilon") is None else values["layer_norm_epsilon"]
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise wrong("layer_norm_epsilon", eps, "a number from 0 to 1")

    activation = get("activation_function", str, "gelu_new")
    if activation not in ACTIVATIONS:
        raise wrong("activation_function", activation, f"one of {', '.join(ACTIVATIONS)}")

    return _with_ends(
        Config(
            **sizes,
            layer_norm_epsilon=float(eps),
            activation_function=activation,
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
    for key in REFUSED:
        if values.get(key):
            raise CheckpointError(f"{source}: {key} is {values[key]!r:.80}, which numgpt does not compute: {other}")

"""Config: the sizes and switches of one GPT-2, and the key of dimensions that all other files use.

    B  batch (operations accept any leading axes; model.forward is unbatched)
    T  new positions (queries)           S  attended positions (keys): S = past + T
    C  width, n_embd                     F  width of the MLP
    H  heads, n_head                     D  size of a head, C / H
    V  vocabulary, n_vocab               L  layers, n_layer                     n_ctx  context limit

Imports nothing of numgpt but the names of the activations.
"""

import math
from typing import Any, NamedTuple

from numgpt.errors import CheckpointError
from numgpt.ops import ACTIVATIONS


class Config(NamedTuple):
    """The sizes and switches of a GPT-2. The defaults are those of the 124M model.

    Source: Radford et al. 2019, table 2; the released hparams.json; the Hub's config.json.

    >>> Config().mlp_width, Config(n_embd=1024, n_head=16).head_size
    (3072, 64)
    """

    n_vocab: int = 50257  # V: rows of the token embedding
    n_ctx: int = 1024  # the most positions that the model can see
    n_embd: int = 768  # C
    n_head: int = 12  # H
    n_layer: int = 12  # L
    n_inner: int | None = None  # F; None stands for 4C
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"  # a name in ops.ACTIVATIONS
    scale_attn_weights: bool = True  # scores are divided by sqrt(D)
    scale_attn_by_inverse_layer_idx: bool = False  # and by the number of the layer, counted from 1
    tie_word_embeddings: bool = True  # the output head is the token embedding
    eos_token_id: int | None = 50256  # <|endoftext|>
    n_tokens: int | None = None  # ids from here on are padding of the embedding, never sampled; None: there is none

    @property
    def mlp_width(self) -> int:
        """F, the width of the MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def head_size(self) -> int:
        """D, the width of one head."""
        return self.n_embd // self.n_head


# Our name, then the others under which files give the same size.
SIZES = {
    "n_vocab": ("vocab_size",),
    "n_ctx": ("n_positions", "max_position_embeddings"),
    "n_embd": ("hidden_size",),
    "n_head": ("num_attention_heads",),
    "n_layer": ("num_hidden_layers",),
}

# What would change the result and is not GPT-2: each of these must be absent, null, false or empty.
REFUSED = ("add_cross_attention", "is_encoder_decoder", "pruned_heads", "quantization_config")


def config_from_json(values: Any, source: str = "config.json") -> Config:
    """Read the Config out of a parsed config.json of the Hub or hparams.json of OpenAI.

    values  the parsed JSON
    source  the name of the file, for messages
    Returns a Config. Keys that change nothing (dropout, summary_*, task_specific_params, ...) are passed over;
    those missing have the defaults that Transformers gives them.
    Raises CheckpointError where a value is impossible, and where the file describes another model than GPT-2.
    Notes: n_positions counts where n_ctx says something else, since it is the one that sizes the embedding.
    An end-of-text id outside the vocabulary can't occur, and is read as none.
    Source: configuration_gpt2.py of Transformers; model.py of OpenAI's release.

    >>> config_from_json({"model_type": "gpt2", "n_embd": 32, "n_head": 4, "vocab_size": 100}).n_vocab
    100
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: expected a JSON object, got {type(values).__name__}")
    _refuse_other_models(values, source)

    def get(key: str, kind: type, default: Any) -> Any:
        value = values.get(key)
        if value is None:
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise CheckpointError(f"{source}: {key} is {value!r:.60}, expected {kind.__name__}")
        return value

    sizes = {}
    for name, others in SIZES.items():
        # n_ctx alone comes last: old files carry it beside n_positions, and only the latter is used.
        spellings = (*others, name) if name == "n_ctx" else (name, *others)
        given = {key: get(key, int, None) for key in spellings if values.get(key) is not None}
        if name != "n_ctx" and len(set(given.values())) > 1:
            raise CheckpointError(f"{source}: {' and '.join(f'{k} {v}' for k, v in given.items())} disagree")
        sizes[name] = next(iter(given.values()), getattr(Config(), name))
    sizes["n_inner"] = get("n_inner", int, None)
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise CheckpointError(f"{source}: {name} is {size}, expected 1 or more")
    if sizes["n_embd"] % sizes["n_head"]:
        raise CheckpointError(
            f"{source}: n_embd {sizes['n_embd']} does not divide into n_head {sizes['n_head']} heads of equal size"
        )

    eps = get("layer_norm_epsilon", float, 1e-5)
    if not 0 <= eps < math.inf:
        raise CheckpointError(f"{source}: layer_norm_epsilon is {eps}, expected a finite number, 0 or more")

    activation = get("activation_function", str, "gelu_new")
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{source}: activation_function is {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )

    eos = values.get("eos_token_id", 50256)
    if isinstance(eos, list) and len(eos) == 1:
        eos = eos[0]
    if eos is not None and type(eos) is not int:
        raise CheckpointError(f"{source}: eos_token_id is {eos!r:.60}, expected one id or null")
    if eos is not None and not 0 <= eos < sizes["n_vocab"]:
        eos = None

    return Config(
        **sizes,
        layer_norm_epsilon=eps,
        activation_function=activation,
        scale_attn_weights=get("scale_attn_weights", bool, True),
        scale_attn_by_inverse_layer_idx=get("scale_attn_by_inverse_layer_idx", bool, False),
        tie_word_embeddings=get("tie_word_embeddings", bool, True),
        eos_token_id=eos,
    )


def _refuse_other_models(values: dict[str, Any], source: str) -> None:
    kind = values.get("model_type", "gpt2")
    architectures = values.get("architectures") or ["GPT2LMHeadModel"]
    if kind != "gpt2":
        raise CheckpointError(
            f"{source}: model_type is {kind!r:.60}, expected 'gpt2': numgpt runs GPT-2 and no other model"
        )
    if not (isinstance(architectures, list) and all(str(name).startswith("GPT2") for name in architectures)):
        raise CheckpointError(f"{source}: architectures is {architectures!r:.80}, expected GPT2LMHeadModel")
    for key in REFUSED:
        if values.get(key):
            raise CheckpointError(f"{source}: {key} is set ({values[key]!r:.60}), which numgpt does not compute")

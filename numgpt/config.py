"""Config: the sizes and switches of one GPT-2, and the key of dimensions that all other files use.

    B  batch (operations accept any leading axes; model.forward is unbatched)
    T  new positions (queries)           S  attended positions (keys): S = past + T
    C  width, n_embd                     F  width of the MLP
    H  heads, n_head                     D  size of a head, C / H
    V  vocabulary, n_vocab               L  layers, n_layer                     n_ctx  context limit

Everything else is built on these few numbers and switches.
"""

from typing import NamedTuple


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
    activation_function: str = "gelu_new"  # a key of ops.ACTIVATIONS
    scale_attn_weights: bool = True  # scores are divided by sqrt(D)
    scale_attn_by_inverse_layer_idx: bool = False  # and by the number of the layer, counted from 1
    tie_word_embeddings: bool = True  # the output head is the token embedding
    eos_token_id: int | None = 50256  # <|endoftext|>
    n_tokens: int | None = None  # ids from here on are padding of the embedding, never sampled; None: there is none
    bos_token_id: int | None = None  # what an empty text begins with; None: eos_token_id
    more_eos_ids: tuple[int, ...] = ()  # ids that end a text too

    @property
    def mlp_width(self) -> int:
        """F, the width of the MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def start_id(self) -> int | None:
        """What an empty text begins with; None where the model has no such token."""
        return self.eos_token_id if self.bos_token_id is None else self.bos_token_id

    @property
    def head_size(self) -> int:
        """D, the width of one head."""
        return self.n_embd // self.n_head

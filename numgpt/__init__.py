"""GPT-2 in NumPy that you can read, run and trust.

Start with `numgpt.model`, the math from the embedding to the logits. In reading order: config, tokenizer, ops, cache,
model, sampling, generation.
"""

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.errors import CheckpointError, ContextError, DownloadError, NumgptError, OptionError, TokenError
from numgpt.generation import generate
from numgpt.model import forward
from numgpt.models import Model, load
from numgpt.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Config",
    "ContextError",
    "DownloadError",
    "KVCache",
    "Model",
    "NumgptError",
    "OptionError",
    "TokenError",
    "Tokenizer",
    "__version__",
    "fast",
    "forward",
    "generate",
    "load",
]

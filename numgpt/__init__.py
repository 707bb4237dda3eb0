"""GPT-2 in NumPy that you can read, run and trust.

Start with `numgpt.model`, the math from the embedding to the logits. In reading order: config, tokenizer, ops, cache,
model, sampling, generation.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as in typing, whose import takes as long as all else here
if TYPE_CHECKING:  # the same names for editors and type checkers, which can't read HOMES
    from numgpt import fast as fast
    from numgpt.backward import check_gradient as check_gradient
    from numgpt.backward import loss_and_grads as loss_and_grads
    from numgpt.cache import KVCache as KVCache
    from numgpt.completion import complete as complete
    from numgpt.completion import stream as stream
    from numgpt.config import Config as Config
    from numgpt.decoding.batch import generate_batch as generate_batch
    from numgpt.errors import CheckpointError as CheckpointError
    from numgpt.errors import ContextError as ContextError
    from numgpt.errors import DownloadError as DownloadError
    from numgpt.errors import NumgptError as NumgptError
    from numgpt.errors import OptionError as OptionError
    from numgpt.errors import TokenError as TokenError
    from numgpt.generation import generate as generate
    from numgpt.model import forward as forward
    from numgpt.models import Model as Model
    from numgpt.models import load as load
    from numgpt.scoring import score as score
    from numgpt.tokenizer import Tokenizer as Tokenizer
    from numgpt.training import train as train
else:
    HOMES = {  # each public name, and the module that it is imported from when it is first asked for
        "CheckpointError": "errors",
        "Config": "config",
        "ContextError": "errors",
        "DownloadError": "errors",
        "KVCache": "cache",
        "Model": "models",
        "NumgptError": "errors",
        "OptionError": "errors",
        "TokenError": "errors",
        "Tokenizer": "tokenizer",
        "check_gradient": "backward",
        "complete": "completion",
        "forward": "model",
        "generate": "generation",
        "generate_batch": "decoding.batch",
        "load": "models",
        "loss_and_grads": "backward",
        "score": "scoring",
        "stream": "completion",
        "train": "training",
    }
    __all__ = sorted([*HOMES, "__version__", "fast"])

    def __getattr__(name):
        """Import a public name or a module of the package: PEP 562, so that `import numgpt` costs next to nothing."""
        from importlib import import_module, util

        if name in HOMES:
            value = globals()[name] = getattr(import_module(f"numgpt.{HOMES[name]}"), name)
            return value
        if not name.startswith("_") and util.find_spec(f"numgpt.{name}"):
            return import_module(f"numgpt.{name}")
        raise AttributeError(f"module 'numgpt' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})

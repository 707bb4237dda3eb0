"""GPT-2 in NumPy that you can read, run and trust.

Start with `numgpt.model`, the math from the embedding to the logits. In reading order: config, params, ops, tokenizer,
cache, model, sampling, generation.
"""

__version__ = "0.1.0"

HOMES = {  # each public name, and the module that it is imported from when it is first asked for
    "CheckpointError": "errors",
    "Config": "config",
    "ContextError": "errors",
    "DownloadError": "errors",
    "KVCache": "cache",
    "Model": "model",
    "NumgptError": "errors",
    "OptionError": "errors",
    "TokenError": "errors",
    "Tokenizer": "fast.tokenizer",
    "check_gradient": "training.gradient_check",
    "choose": "measure.choices",
    "complete": "decoding.text",
    "explain": "pages.explanation",
    "forward": "model",
    "generate": "decoding.loop",
    "generate_batch": "decoding.batch",
    "load": "hub.loading",
    "load_tokenizer": "hub.loading",
    "loss_and_grads": "training.backward",
    "score": "measure.scoring",
    "stream": "decoding.text",
    "train": "training.run",
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

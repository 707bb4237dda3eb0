"""The twins: what the learner's files compute, sooner. Each bears the name of its original and is held equal to it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numgpt.fast.blas import stay_on_one_thread, steer_blas
    from numgpt.fast.model import forward, forward_batch

HOMES = {"forward": "model", "forward_batch": "model", "steer_blas": "blas"}  # each name and the module of it
HOMES["stay_on_one_thread"] = "blas"
__all__ = ["forward", "forward_batch", "stay_on_one_thread", "steer_blas"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the tokenizer's twin, beside it, does without NumPy."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"numgpt.fast.{HOMES[name]}"), name)
    return value

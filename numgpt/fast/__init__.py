"""The twins: what the learner's files compute, sooner. Each bears the name of its original and is held equal to it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numgpt.fast.model import forward, forward_batch

__all__ = ["forward", "forward_batch"]


def __getattr__(name: str) -> Any:
    """Import the model's twin when it is first asked for: the tokenizer's, beside it, does without NumPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from numgpt.fast import model

    value = globals()[name] = getattr(model, name)
    return value

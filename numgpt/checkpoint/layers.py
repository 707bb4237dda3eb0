"""Layers that stay in their file until they are needed, for a model that does not fit into memory."""

from collections.abc import Callable, Iterator
from typing import Any

from numgpt.checkpoint.memory import dtype_of, read_tree
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.params import param_shapes


class Layers(list[Any]):
    """The layers of a model, in the place of the list in the parameter tree. Each access reads one, and keeps none.

    >>> layers = Layers(3, lambda i: {"layer": i})
    >>> len(layers), layers[-1], [layer["layer"] for layer in layers]
    (3, {'layer': 2}, [0, 1, 2])
    """

    def __init__(self, n: int, read: Callable[[int], Any]) -> None:
        super().__init__()
        self.n, self.read = n, read

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Any]:
        return map(self.read, range(self.n))

    def __getitem__(self, i: Any) -> Any:
        return self.read(range(self.n)[i])

    def map(self, function: Callable[[Any], Any]) -> "Layers":
        """Return layers of which each is read and changed when it is needed."""
        return Layers(self.n, lambda i: function(self.read(i)))


def read_by_layer(
    given: dict[str, LazyTensor], config: Config, dtype: str | None, weights: str | None
) -> dict[str, Any]:
    """Read the parameter tree but for its layers, which are read one at a time, when they are needed.

    All as for `memory.read_tree`; what the tree holds then is the same to the bit.
    """
    dtype = dtype_of(given, dtype)
    shapes = param_shapes(config)
    others = {path: tensor for path, tensor in given.items() if not path.startswith("h.")}

    def read(i: int) -> Any:
        start = f"h.{i}."
        layer = {path.removeprefix(start): tensor for path, tensor in given.items() if path.startswith(start)}
        return read_tree(layer, shapes["h"][i], dtype, weights)

    top = read_tree(others, {name: shape for name, shape in shapes.items() if name != "h"}, dtype, weights)
    return {name: top[name] if name in top else Layers(config.n_layer, read) for name in shapes}

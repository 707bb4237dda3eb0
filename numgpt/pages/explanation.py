"""Explain a text: all that a model computes of it, in one HTML file that opens from a disk.

The page is page.html with page.css, page.js and the data of `gather` in it. It asks nobody for anything: its content
security policy allows this one style and this one script, by their hashes, and nothing else.
"""

import base64
import hashlib
import html
import json
import re
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.disk import written_whole
from numgpt.checks import check_ids, check_room
from numgpt.model import Ids, Model, tokenizer_of
from numgpt.ops import ACTIVATIONS
from numgpt.pages.gather import gather
from numgpt.pages.sources import source_of

# What a page spells, as it can't be seen or turns the line round: control characters, marks of direction.
UNSEEN = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"


class Explanation(NamedTuple):
    """A page that explains a text. In a notebook it shows itself."""

    html: str  # the whole page
    data: dict[str, Any]  # what lies in it as JSON

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to a file, whole or not at all. Raises CheckpointError where that can't be written."""
        with written_whole(Path(path)) as file:
            file.write(self.html.encode())

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither its style nor its script meets the notebook's."""
        page = html.escape(self.html)
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" width="100%" height="800"></iframe>'

    def __repr__(self) -> str:
        size = len(self.html.encode()) / 1e6
        return f"Explanation(tokens: {len(self.data['ids'])}, {size:.1f} MB; .save('page.html') writes it)"


def explain(model: Model, text: str | Ids, name: str = "", allow_special: bool = False) -> Explanation:
    """Make a page that shows all that a model computes of a text, from its ids to what may follow.

    model          as `numgpt.load` returns it; without a tokenizer it explains ids
    text           str, or its ids [T]
    name           what the page calls the model
    allow_special  whether "<|endoftext|>" in the text is the special token
    Returns an Explanation: `.save(path)` writes the page; in a notebook it shows itself.
    Raises TokenError for text without a tokenizer and ids outside the vocabulary, ContextError for more tokens than the
    model can see, CheckpointError where what it computes is not finite.
    Notes: the numbers of tensors are those of a pass in float64, so that each can be checked; ranks and
    log-probabilities of the text are those of `numgpt.score`.

    >>> import numgpt
    >>> explain(numgpt.load("storyteller"), "Once upon a time")
    Explanation(tokens: 5, 0.3 MB; .save('page.html') writes it)
    """
    encoded = tokenizer_of(model).encode(text, allow_special) if isinstance(text, str) else text
    ids = check_ids(encoded, model.config.n_vocab)
    check_room(len(ids), None, model.config, model.params["wte"].dtype)
    page, style, script = (file_of_the_page(name) for name in ("page.html", "page.css", "page.js"))
    data = {"name": name, **gather(ids, model)}
    data["code"] = {name: source_of(name) for name in sorted(set(re.findall(r'data-code="(\w+\.[\w.]+)"', page)))}
    activation = ACTIVATIONS[model.config.activation_function]
    of_numpy = {"file": "numpy", "line": 0, "code": ""}  # tanh: it is compiled, and has no source to show
    data["code"]["activation"] = of_numpy if activation is np.tanh else source_of(f"ops.{activation.__name__}")
    known = model.tokenizer is not None and int(ids.max()) < len(model.tokenizer)
    words = tokenizer_of(model).decode(ids) if known else " ".join(map(str, ids.tolist()))
    words = re.sub(UNSEEN, lambda found: f"\\u{ord(found[0]):04x}", words)
    parts = {
        "title": html.escape(f"{shortened(words)} · numgpt"),
        "policy": f"default-src 'none'; style-src {hash_of(style)}; script-src {hash_of(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "script": script,
    }
    return Explanation(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page), data)


def file_of_the_page(name: str, room: str = "numgpt.pages") -> str:
    """Return the text of a file that lies beside the modules of a room."""
    return resources.files(room).joinpath(name).read_text(encoding="utf-8")


def hash_of(text: str) -> str:
    """Return what a content security policy calls the text of an element by.

    >>> hash_of("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def shortened(text: str, length: int = 60) -> str:
    """Return the beginning of a text, for a title.

    >>> shortened("once upon a time", 9)
    'once upon…'
    """
    return text if len(text) <= length else f"{text[:length].rstrip()}…"

"""Colour a text by how much each token of it surprised a model."""

import codecs
import math
from collections.abc import Iterator, Sequence

import numpy as np

# From so many bits of surprisal on, a token has this background of the 256 colours, under black.
SHADES = {2: 230, 4: 222, 8: 215, 12: 203}


def paint(pieces: Sequence[bytes], log_probs: np.ndarray) -> Iterator[str]:
    r"""Yield a text in whole characters, each with a background for the bits of surprisal of the tokens it is made of.

    pieces     [T] the bytes of each token
    log_probs  [T]; nan for what was not scored, which is dim
    Notes: a colour ends with its line, or terminals would fill the rest of it.

    >>> list(paint([b"a", b" \xe2", b"\x82\xac\n"], np.array([math.nan, -math.log(4), -math.log(8)])))
    ['\x1b[2ma\x1b[0m', '\x1b[30;48;5;222m €\x1b[0m\n']
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, bits = "", math.nan
    for t, (piece, nats) in enumerate(zip(pieces, -log_probs, strict=True)):
        last = t == len(pieces) - 1
        text += decoder.decode(piece, final=last)
        if not math.isnan(nats):
            bits = nats / math.log(2) + (0 if math.isnan(bits) else bits)
        if last or not decoder.getstate()[0]:
            shade = max((bound for bound in SHADES if bits >= bound), default=None)
            style = "2" if math.isnan(bits) else f"30;48;5;{SHADES[shade]}" if shade else ""
            lines = text.split("\n")
            yield "\n".join(f"\x1b[{style}m{part}\x1b[0m" if style and part else part for part in lines)
            text, bits = "", math.nan

"""Time the tokenizer beside `tokenizers` and `tiktoken`, in turns, on a text read for the first time.

    python tests/bench/tokenizer.py TEXT_FILE [CHARACTERS]

Each round makes a new numgpt tokenizer, so that its memory of words is empty, and checks that the ids are equal.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers
from tokenizers.models import BPE

from numgpt.checkpoint import vocabulary

ROUNDS = 7
MERGES = Path(vocabulary.__file__).parents[1] / "data" / "vocab.bpe"
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main(path: str, characters: int = 3_000_000) -> None:
    text = Path(path).read_text(encoding="utf-8")[:characters]
    gpt2 = vocabulary.gpt2()
    spelt = {byte: char for char, byte in vocabulary._spellings().items()}
    spell = {piece: "".join(spelt[bytes([byte])] for byte in piece) for piece in gpt2.vocabulary}
    peer = tokenizers.Tokenizer(
        BPE({spell[p]: i for p, i in gpt2.vocabulary.items()}, [(spell[a], spell[b]) for a, b in gpt2.ranks])
    )
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    other = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=dict(gpt2.vocabulary), special_tokens={})

    rounds = []
    for _ in range(ROUNDS):
        made, gpt2 = timed(lambda: vocabulary.read_merges(MERGES))  # gpt2() would read them with the first text
        cold, ids = timed(lambda: gpt2.encode(text))  # noqa: B023
        warm, _ = timed(lambda: gpt2.encode(text))  # noqa: B023
        theirs, encoding = timed(lambda: peer.encode(text))
        tik, others = timed(lambda: other.encode_ordinary(text))
        assert ids == encoding.ids == others
        rounds.append((made, cold, warm, theirs, tik, theirs / cold, tik / cold))
    made, cold, warm, theirs, tik, over_peer, over_tik = map(statistics.median, zip(*rounds, strict=True))
    print(f"{len(text)} characters, {len(ids)} ids, medians of {ROUNDS} rounds in turns")
    print(f"numgpt      {cold:.3f} s for the first time, {warm:.3f} s again; made in {1000 * made:.0f} ms")
    print(f"tokenizers  {theirs:.3f} s: numgpt has {over_peer:.2f} times its speed")
    print(f"tiktoken    {tik:.3f} s: numgpt has {over_tik:.2f} times its speed")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))

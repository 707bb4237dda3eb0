"""llm.c's files of tokens, such as tiny_shakespeare_train.bin: a text that is ids already.

    20240520, version 1, how many ids: 256 int32, those that are not named 0
    the ids, each a uint16

Source: karpathy/llm.c, dev/data/data_common.py (write_datafile) and llmc/dataloader.h.
"""

from pathlib import Path

import numpy as np

from numgpt.checkpoint.disk import decode_text
from numgpt.checkpoint.files import wrong
from numgpt.checkpoint.llmc import HEADER, KINDS, TOKENS, read_header


def text_or_ids(raw: bytes, source: Path) -> str | np.ndarray:
    """Return the text that some bytes are, or the ids, if they are those of a file of tokens.

    raw     the whole content of a file
    source  its name, for messages
    Returns str, or uint16 [T]. The two can't be confused: no UTF-8 begins as a file of llm.c does.
    Raises CheckpointError for a file of tokens that is damaged, empty, or of another model, and for another file of
    llm.c; TokenError for what is no text.

    >>> text_or_ids(b"abc", Path("a.txt"))
    'abc'
    >>> from numgpt.checkpoint.llmc import header
    >>> text_or_ids(header(TOKENS, 1, 2) + bytes([7, 0, 1, 1]), Path("a.bin"))
    array([  7, 257], dtype=uint16)
    """
    if int.from_bytes(raw[:4], "little") not in KINDS:
        return decode_text(raw, source)
    start, ids = raw[: 4 * HEADER], raw[4 * HEADER :]
    count = read_header(source, start, TOKENS, (1,))[2]
    if count < 1 or len(ids) != 2 * count:
        raise wrong(source, f"{count:,} ids, for which {len(ids):,} bytes are there, expected 2 for each")
    return np.frombuffer(ids, "<u2").astype(np.uint16)

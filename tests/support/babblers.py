"""A checkpoint that says anything, and quickly: the storyteller's tokenizer and context, and a few weights of chance.

It is for tests of what is done with a text, whatever it says.
"""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from support.checkpoints import hub_tensors, write_checkpoint

import numgpt
from numgpt.hub.folders import bundled

SIZES = {"n_embd": 16, "n_head": 4, "n_layer": 2, "n_inner": 64}


def write_babbler(folder):
    """Write the checkpoint. Return its folder."""
    tensors = hub_tensors(vocab_size=4096, n_positions=512, n_embd=16, n_inner=64)
    config = {"model_type": "gpt2", "vocab_size": 4096, "n_positions": 512, "eos_token_id": 4095, **SIZES}
    write_checkpoint(folder, tensors, config)
    for name in "vocab.json", "merges.txt":
        shutil.copy(bundled() / name, folder)
    return folder


@cache
def babbler():
    """Return the model of the checkpoint."""
    with TemporaryDirectory() as folder:
        return numgpt.load(write_babbler(Path(folder)))

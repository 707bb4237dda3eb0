"""What can name a checkpoint: each known name has an address, and the figures of the table hold together."""

import re

import pytest

from numgpt.hub.registry import KNOWN, OPENAI_FILES, SMALL_FILES, WEIGHTS, is_name, parse_name


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {"storyteller"}))
def test_every_known_name_has_an_address(name):
    source = parse_name(name)
    assert is_name(name)
    assert re.fullmatch(r"[\w-]+/[\w-]+", source.repo) or source.revision == name
    assert re.fullmatch(r"[0-9a-f]{40}|main|\d+M", source.revision)
    for file, (size, digest) in source.files.items():
        assert file in (*SMALL_FILES, *WEIGHTS, *OPENAI_FILES)
        assert size is None or size > 0
        assert digest is None or re.fullmatch("[0-9a-f]{64}", digest)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
    ],
)
def test_the_sizes_of_the_known_models_hold_together(name, params):
    assert KNOWN[name].params == params
    # The file holds float32, and the causal masks of 1024 x 1024 of 12, 24, 36, 48 or 6 layers; the rest is the header.
    n_layer = {"gpt2": 12, "gpt2-medium": 24, "gpt2-large": 36, "gpt2-xl": 48, "distilgpt2": 6}[name]
    header = KNOWN[name].file_bytes - 4 * (params + n_layer * 1024**2)
    assert 8000 < header < 60_000

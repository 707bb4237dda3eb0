"""The adapter of lm-evaluation-harness where the harness is not installed. tests/conformance has it at work."""

import importlib

import pytest
from support.extras import without_the_harness

from numgpt.errors import OptionError


def test_without_the_extra_the_import_says_how_to_install_it(monkeypatch):
    without_the_harness(monkeypatch)
    with pytest.raises(OptionError, match=r'0.4.13 or newer: pip install "numgpt\[eval\]"'):
        importlib.import_module("numgpt.measure.harness")

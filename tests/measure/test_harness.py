"""The adapter of lm-evaluation-harness where the harness is not installed. tests/conformance has it at work."""

import importlib
import sys

import pytest

from numgpt.errors import OptionError


def test_without_the_extra_the_import_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "numgpt.measure.harness", raising=False)
    with pytest.raises(OptionError, match=r'0.4.13 or newer: pip install "numgpt\[eval\]"'):
        importlib.import_module("numgpt.measure.harness")

"""Python as it is without an extra."""

import sys


def without_the_harness(monkeypatch):
    """Let nothing of lm-evaluation-harness be found, also where it has been imported already."""
    loaded = {name for name in sys.modules if name.partition(".")[0] == "lm_eval"}
    for name in {"lm_eval", *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "numgpt.measure.harness", raising=False)

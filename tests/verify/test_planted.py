"""Mistakes that ports of GPT-2 have made, or may: each is named, from a dump of all and from the logits alone."""

import pytest
from support.dumps import IDS, check, thorough, wide
from support.planted import PLANTED


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("names", [list(PLANTED)[::12], *thorough(list(PLANTED))])
def test_each_is_named(names, full):
    for name in names:
        _, words, made = PLANTED[name]
        model = wide()
        tensors = made(IDS, model.params, model.config)
        if not full:
            tensors = {"logits": tensors["logits"]}
        report = check(model, IDS, tensors)
        if name == "no bias of keys" and not full:  # it adds the same to all scores of a query: nothing is lost
            assert report.passed
        else:
            assert words in report.causes[0], (name, report.causes, report.pattern)

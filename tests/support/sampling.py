"""Sampling by its options, as the tests of it ask for it: each draw by the readable way and by the fast one."""

import math

import numpy as np

from numgpt import sampling
from numgpt.decoding.controls import Sampling, Start, controls_of
from numgpt.errors import NumgptError
from numgpt.fast import sampling as fast

LOW = -math.inf


def logits_of(weights, dtype=np.float64):
    """Return logits under which tokens are as likely as their weights say; 0 is banned."""
    return np.array([math.log(w) if w else LOW for w in weights], dtype)


def kept(logits):
    """Return the ids that are not banned."""
    return np.flatnonzero(logits > LOW).tolist()


def process(logits, ids, options, *, prompt_length=0, stop_ids=()):
    """Apply the controls to the logits of one position, in order. At temperature 0 only those that look at the text."""
    if options.temperature == 0:
        options = options._replace(temperature=1.0, top_k=None, top_p=None, min_p=None)
    for control in controls_of(options, Start(prompt_length, stop_ids)):
        logits = control(logits, ids)
    return logits


def narrow(logits, options):
    """Apply the controls that look at the logits alone, in order."""
    names = "temperature", "top_k", "top_p", "min_p"
    return process(logits, [], Sampling(**{name: getattr(options, name) for name in names}))


def sample(logits, ids, options, seed=0, stream=0, *, prompt_length=0, stop_ids=()):
    """Choose the token that follows ids, by both ways, which agree in the id or in the error."""
    controls = controls_of(options, Start(prompt_length, stop_ids))
    found = []
    for function in sampling.sample, fast.sample:
        try:
            found.append(function(logits, ids, controls, seed, stream))
        except NumgptError as error:
            found.append(error)
    if isinstance(found[1], NumgptError):
        assert (type(found[0]), str(found[0])) == (type(found[1]), str(found[1]))
        raise found[1]
    assert found[0] == found[1]
    assert np.ndim(found[1]) == 0
    return found[1]

"""One step of training, and how good the model is after it: pure functions of a state and a batch."""

import numpy as np

from numgpt.config import Config
from numgpt.model import Params, compute_logits
from numgpt.training.backward import UNCOUNTED, counted, cross_entropy, loss_and_grads
from numgpt.training.examples import Examples
from numgpt.training.optimizer import State, adamw, clip, schedule
from numgpt.training.settings import Settings


def train_step(state: State, examples: Examples, config: Config, settings: Settings) -> tuple[State, float, float]:
    """Take one step: the loss and its gradient, clipped, and what AdamW makes of it.

    examples  a batch
    Returns the next State, the loss before the step, and the length of the gradient before it was clipped.

    >>> from numgpt.params import random_params
    >>> from numgpt.training.examples import batch, windows_of
    >>> from numgpt.training.optimizer import start_state
    >>> config, settings = Config(n_vocab=9, n_ctx=4, n_embd=8, n_head=2, n_layer=1), Settings(learning_rate=0.2)
    >>> state, losses = start_state(random_params(config)), []
    >>> for step in range(1, 41):
    ...     examples = batch(windows_of([1, 2, 3, 4] * 5, 4), 8, seed=0, step=step)
    ...     state, loss, norm = train_step(state, examples, config, settings)
    ...     losses.append(loss)
    >>> losses[0] > 2, losses[-1] < 0.1
    (True, True)
    """
    loss, grads = loss_and_grads(examples.ids, examples.targets, state.params, config)
    grads, norm = clip(grads, settings.grad_clip)
    after = adamw(
        state,
        grads,
        learning_rate(state.step + 1, settings),
        beta1=settings.beta1,
        beta2=settings.beta2,
        weight_decay=settings.weight_decay,
    )
    return after, loss, norm


def learning_rate(step: int, settings: Settings) -> float:
    """Return the learning rate of a step, 1 to steps: `schedule`, as the settings have it."""
    peak = settings.learning_rate
    least = peak / 10 if settings.min_lr is None else settings.min_lr
    return schedule(step, learning_rate=peak, min_lr=least, warmup_steps=settings.warmup_steps, steps=settings.steps)


def evaluate(examples: Examples, params: Params, config: Config, batch_size: int) -> tuple[float, float]:
    """Return the mean loss of some examples, and the share of them that greedy decoding gets right throughout.

    Notes: nothing has to be generated for it. Greedy decoding makes an answer if and only if, with the answer so far in
    sight, each of its tokens has the highest logit.

    >>> from numgpt.params import random_params
    >>> from numgpt.training.examples import windows_of
    >>> config = Config(n_vocab=9, n_ctx=4, n_embd=8, n_head=2, n_layer=1)
    >>> loss, share = evaluate(windows_of(range(9), 4), random_params(config), config, batch_size=2)
    >>> round(loss, 1), share  # about log 9
    (2.2, 0.0)
    """
    nats, count, right = 0.0, 0, 0
    for i in range(0, len(examples.ids), batch_size):
        ids, targets = examples.ids[i : i + batch_size], examples.targets[i : i + batch_size]
        logits = compute_logits(ids, params, config)
        n = int(counted(targets).sum())
        nats += n * cross_entropy(logits, targets)
        count += n
        fits = (logits.argmax(axis=-1) == targets) | (targets == UNCOUNTED)
        right += int(np.count_nonzero(fits.all(axis=-1)))
    return nats / count, right / len(examples.ids)

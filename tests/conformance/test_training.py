"""Training against PyTorch: the same steps from the same weights and batches, in float64; and the folder it leaves.

The other side is written from what nanoGPT does: torch.optim.AdamW with two groups, matrices that decay and the rest,
clip_grad_norm_, and a schedule by LambdaLR.
"""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.params import leaves
from numgpt.training.examples import Examples, batch, read_examples
from numgpt.training.optimizer import clip, start_state
from numgpt.training.run import train
from numgpt.training.settings import Settings
from numgpt.training.steps import train_step

STEPS, WARMUP, PEAK, LEAST, DECAY, CLIP, BETAS = 200, 20, 3e-3, 2e-4, 0.2, 1.0, (0.85, 0.97)
SETTINGS = Settings(
    steps=STEPS, batch_size=8, warmup_steps=WARMUP, learning_rate=PEAK, min_lr=LEAST, weight_decay=DECAY,
    grad_clip=CLIP, beta1=BETAS[0], beta2=BETAS[1], seed=5, dtype="float64", answers_after="=",
)  # fmt: skip
SORTED = "".join(f"{n:04}={''.join(sorted(f'{n:04}'))}\n" for n in range(0, 10_000, 23))
PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 9
# Transformers' names of the two that are not told by their last part.
HEADS = {"wte": "transformer.wte.weight", "wpe": "transformer.wpe.weight"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that multiply matrices this small wait for each other, on a busy machine for minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hub_name(path: str) -> str:
    """The name that Transformers gives a parameter, written out here."""
    last = {"g": "weight", "b": "bias", "w": "weight"}
    head, _, tail = path.rpartition(".")
    return HEADS.get(path) or f"transformer.{head}.{last[tail]}"


def torch_losses(model: GPT2LMHeadModel, batches: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[float]:
    """Train a PyTorch model as nanoGPT does, and yield the loss of each step."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=BETAS, eps=1e-8)

    def factor(done: int) -> float:
        if done < WARMUP:
            return (done + 1) / WARMUP
        along = (done + 1 - WARMUP) / (STEPS - WARMUP)
        return (LEAST + 0.5 * (1 + math.cos(math.pi * along)) * (PEAK - LEAST)) / PEAK

    scheduler = LambdaLR(optimizer, factor)
    for ids, targets in batches:
        logits = model(torch.tensor(ids)).logits
        labels = torch.tensor(targets).long()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        yield loss.item()


@pytest.mark.parametrize("answers_after", ["=", None], ids=["lines", "windows"])
def test_200_steps_follow_pytorch(answers_after, tmp_path):
    text = SORTED if answers_after else PROSE
    settings = SETTINGS._replace(answers_after=answers_after, block_size=None if answers_after else 16)
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16}
    first = train(file, tmp_path / "run", **settings._replace(steps=1, warmup_steps=1)._asdict() | sizes)
    training, _ = read_examples([(file, text)], first.tokenizer, first.config, settings)
    params = numgpt.params.random_params(first.config, seed=3, dtype=np.float64)
    config = GPT2Config(
        vocab_size=257, n_positions=first.config.n_ctx, **sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=256, eos_token_id=256, attn_implementation="eager",
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).double().train()
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        for path, x in leaves(params):
            named[hub_name(path)].copy_(torch.tensor(x))

    batches = [tuple(batch(training, 8, seed=5, step=step)) for step in range(1, STEPS + 1)]
    state, norms = start_state(params), []
    for step, (expected, examples) in enumerate(zip(torch_losses(theirs, batches), batches, strict=True), 1):
        state, loss, norm = train_step(state, Examples(*examples), first.config, settings)
        norms.append(norm)
        assert loss == pytest.approx(expected, abs=1e-9), step
    assert min(norms) < CLIP < max(norms)  # both cases came
    assert loss < 2.5  # and it learned
    for path, x in leaves(state.params):
        np.testing.assert_allclose(x, named[hub_name(path)].detach().numpy(), rtol=0, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("limit", [0.01, 1.0, 1e9])
def test_gradients_are_clipped_as_pytorch_clips_them(limit):
    draw = np.random.default_rng(1)
    grads = {"a": draw.standard_normal((3, 4)), "h": [{"b": draw.standard_normal(5)}]}
    theirs = [torch.nn.Parameter(torch.tensor(x)) for _, x in leaves(grads)]
    for p, (_, x) in zip(theirs, leaves(grads), strict=True):
        p.grad = torch.tensor(x)
    expected_norm = torch.nn.utils.clip_grad_norm_(theirs, limit).item()
    ours, norm = clip(grads, limit)
    assert norm == pytest.approx(expected_norm, rel=1e-14)
    for p, (path, x) in zip(theirs, leaves(ours), strict=True):
        np.testing.assert_allclose(x, p.grad.numpy(), rtol=1e-14, err_msg=path)


def test_transformers_loads_what_was_trained_and_its_vocabulary(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(SORTED, encoding="utf-8")
    settings = {"steps": 3, "warmup_steps": 1, "n_layer": 2, "n_head": 2, "n_embd": 16, "dtype": "float64"}
    ours = train(file, tmp_path / "run", answers_after="=", **settings)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "run", dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    for text in "3142=", "It's  1234: süß \U0001f642\n\n":
        assert tokenizer(text)["input_ids"] == ours.tokenizer.encode(text)
        assert tokenizer.decode(ours.tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    assert tokenizer.eos_token_id == theirs.config.eos_token_id == ours.config.eos_token_id == 256
    assert theirs.config.bos_token_id == 256
    ids = ours.tokenizer.encode("3142=12")
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(numgpt.forward(ids, ours.params, ours.config), expected, rtol=0, atol=1e-12)

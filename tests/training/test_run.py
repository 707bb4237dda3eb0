"""Training: the optimiser by hand, batches as a function of the step, and runs that nothing undoes."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import TOKENS, hub_tensors, write_checkpoint, write_tokenizer

import numgpt
from numgpt.checkpoint.safetensors import read_header
from numgpt.cli import main as cli
from numgpt.config import Config
from numgpt.errors import CheckpointError, NumgptError, OptionError
from numgpt.params import leaves, map_leaves, random_params
from numgpt.training import run as training
from numgpt.training.examples import Examples, batch, byte_tokenizer, read_examples, windows_of
from numgpt.training.optimizer import adamw, adamw_leaf, clip, schedule, start_state
from numgpt.training.run import evaluate, train
from numgpt.training.settings import Settings

SORTED = "".join(f"{n}={''.join(sorted(str(n)))}\n" for n in range(100, 160))
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 8, "batch_size": 3, "steps": 7, "warmup_steps": 2, "answers_after": "="}
FLAGS = ["--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--batch-size", "3", "--answers-after", "="]
SMALL = Config(n_vocab=9, n_ctx=4, n_embd=8, n_head=2, n_layer=2)
FILES = ("model.safetensors", "training.safetensors")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork and no SIGKILL")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """What the command line sets does not stay."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", os.environ.get("OPENBLAS_NUM_THREADS", "1"))


@pytest.fixture
def text(tmp_path):
    """A file of 60 lines, of 7 characters each."""
    path = tmp_path / "sort.txt"
    path.write_text(SORTED, encoding="utf-8")
    return path


def files(folder):
    """All that a run has written, without its settings, which name files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def call(capsys, *arguments):
    """Run the command in this process; return its exit code, standard output and standard error."""
    code = cli.main(["train", *map(str, arguments)])
    return code, *capsys.readouterr()


def command(*arguments):
    return [sys.executable, "-m", "numgpt", "train", *map(str, arguments)]


# ---- the optimiser


def test_two_steps_of_adamw_worked_by_hand():
    """Both means forget half. The first step goes by 2/sqrt(4) and the decay of 10; the second by -2/sqrt(12)."""
    options = {"lr": 0.5, "beta1": 0.5, "beta2": 0.5, "weight_decay": 0.1, "eps": 0.0}
    p, m, v = adamw_leaf(np.array([10.0]), np.array([2.0]), np.zeros(1), np.zeros(1), t=1, **options)
    assert (p, m, v) == (10 - 0.5 * (1 + 1), 1, 2)
    p, m, v = adamw_leaf(p, np.array([-4.0]), m, v, t=2, **options)
    assert (m, v) == (-1.5, 9)
    assert p[0] == pytest.approx(9 - 0.5 * (-2 / math.sqrt(12) + 0.9), rel=1e-15)


def test_the_first_step_is_as_long_as_the_learning_rate_whatever_the_gradient():
    for g in 1e-4, 1.0, 1e4:
        p, _, _ = adamw_leaf(np.zeros(1), np.array([g]), np.zeros(1), np.zeros(1), 1, 0.01, 0.9, 0.99, 0.1)
        assert p[0] == pytest.approx(-0.01, rel=1e-3)


def test_eps_keeps_a_gradient_of_nothing_from_dividing_by_it():
    p, _, _ = adamw_leaf(np.ones(1), np.zeros(1), np.zeros(1), np.zeros(1), 1, 0.01, 0.9, 0.99, 0.0)
    assert p[0] == 1


def test_matrices_decay_embeddings_too_and_nothing_else():
    state = start_state(map_leaves(lambda path, p: np.ones_like(p, np.float64), random_params(SMALL)))
    zero = map_leaves(lambda path, p: np.zeros_like(p), state.params)
    after = adamw(state, zero, lr=0.5, weight_decay=0.25)
    for path, p in leaves(after.params):
        decayed = path in ("wte", "wpe") or path.endswith(".w")
        assert (p == (0.875 if decayed else 1.0)).all(), path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_keeps_the_dtype_and_changes_no_argument(dtype):
    state = start_state(random_params(SMALL, dtype=dtype))
    before = map_leaves(lambda path, p: p.copy(), list(state[1:]))
    examples = batch(windows_of([1, 2, 3, 4, 5, 6], 4), 2, seed=0, step=1)
    after, _, _ = training.train_step(state, examples, SMALL, Settings())
    assert after.step == 1
    for tree in after[1:]:
        assert {x.dtype for _, x in leaves(tree)} == {np.dtype(dtype)}
    for (path, x), (_, y) in zip(leaves(before), leaves(list(state[1:])), strict=True):
        assert np.array_equal(x, y), path
    assert not np.array_equal(after.params["wte"], state.params["wte"])


def test_a_gradient_is_clipped_as_one_vector_and_only_if_it_is_too_long():
    grads = {"a": np.array([[3.0, 0.0]]), "h": [{"b": np.array([4.0])}]}
    for limit in 5.1, 0:
        same, norm = clip(grads, limit)
        assert norm == 5
        assert same["h"][0]["b"] == 4
    short, norm = clip(grads, 2.5)
    assert norm == 5
    assert short["a"][0, 0] == pytest.approx(1.5, rel=1e-6)
    assert short["h"][0]["b"][0] == pytest.approx(2.0, rel=1e-6)


@given(st.integers(1, 400), st.data())
def test_the_schedule_goes_up_to_its_peak_and_down_to_its_end(steps, data):
    warmup = data.draw(st.integers(0, steps))
    rates = [
        schedule(step, learning_rate=1.0, min_lr=0.125, warmup_steps=warmup, steps=steps)
        for step in range(1, steps + 1)
    ]
    assert rates[:warmup] == [pytest.approx(step / warmup) for step in range(1, warmup + 1)]
    after = [1.0, *rates[warmup:]]
    assert all(a > b for a, b in pairwise(after))
    if warmup < steps:
        assert rates[-1] == 0.125
        assert rates[(steps + warmup) // 2 - 1] == pytest.approx(0.5625, abs=2 / (steps - warmup))  # half way


def test_the_values_of_the_schedule():
    options = {"learning_rate": 1.0, "min_lr": 0.0, "warmup_steps": 4, "steps": 10}
    assert schedule(1, **options) == 0.25
    assert schedule(6, **options) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)  # a third of the way down
    assert schedule(10, **options) == 0


# ---- batches


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32), st.integers(1, 50), st.integers(1, 20))
def test_a_batch_is_a_function_of_seed_and_step(seed, step, n, size):
    examples = windows_of(range(100, 100 + n + 1), 1)
    first, again = batch(examples, size, seed=seed, step=step), batch(examples, size, seed=seed, step=step)
    assert np.array_equal(first.ids, again.ids)
    assert first.ids.shape == first.targets.shape == (size, 1)
    assert ((first.ids >= 100) & (first.ids < 100 + n)).all()
    assert np.array_equal(first.targets, first.ids + 1)


def test_batches_differ_and_reach_every_example_about_as_often():
    examples = windows_of(range(51), 1)
    rows = [batch(examples, 20, seed=3, step=step).ids[:, 0] for step in range(1, 501)]
    assert len({tuple(row) for row in rows}) == 500
    counts = np.bincount(np.concatenate(rows), minlength=50)
    assert len(counts) == 50
    assert abs(counts - 200).max() < 5 * math.sqrt(200)
    assert not np.array_equal(rows[0], batch(examples, 20, seed=4, step=1).ids[:, 0])


def read(path, text, config=None, val=None, **settings):
    """Read examples as `train` does, byte by byte."""
    texts = [(path, text)] + ([] if val is None else [(path, val)])
    return read_examples(texts, byte_tokenizer(), config, Settings(**settings))


def test_the_last_tenth_is_held_out_and_the_two_share_nothing(tmp_path):
    training, held_out = read(tmp_path, "a" * 900 + "b" * 100, block_size=8)
    assert set(training.ids.flat) | set(training.targets.flat) == {ord("a")}
    assert set(held_out.ids.flat) | set(held_out.targets.flat) == {ord("b")}
    assert len(training.ids) == 900 - 8
    assert len(held_out.ids) == 12  # side by side: 12 * 8 + 1 of its 100


def test_windows_of_the_held_out_text_lie_side_by_side(tmp_path):
    _, held_out = read(tmp_path, "x" * 50, val="0123456789", block_size=4)
    assert [bytes(row.tolist()) for row in held_out.ids] == [b"0123", b"4567"]
    assert [bytes(row.tolist()) for row in held_out.targets] == [b"1234", b"5678"]


def test_every_tenth_line_is_held_out_and_its_question_learned_from_nowhere(tmp_path):
    lines = [f"{n}={n}" for n in range(10, 28)]
    lines[9:9], lines[19:19] = ["50=50"], ["51=51"]
    training, held_out = read(tmp_path, "\n".join([*lines, "50=no", ""]), answers_after="=")
    assert [bytes(row[:2].tolist()) for row in held_out.ids] == [b"50", b"51"]
    assert sorted(bytes(row[:2].tolist()) for row in training.ids) == [str(n).encode() for n in range(10, 28)]


def test_of_a_few_lines_the_last_is_held_out(tmp_path):
    training, held_out = read(tmp_path, "1=2\n3=4\n5=6", answers_after="=")
    assert [bytes(row[:1].tolist()) for row in training.ids] == [b"1", b"3"]
    assert [bytes(row[:1].tolist()) for row in held_out.ids] == [b"5"]


def test_only_the_answer_counts_and_lines_are_padded(tmp_path):
    training, held_out = read(tmp_path, "1+2=>3=>4\r\n\n7=>\n", val="12=>3", answers_after="=>")
    assert training.ids.tolist() == [[*b"1+2=>3=>4"], [*b"7=>", *[256] * 6]]
    assert training.targets.tolist() == [[-1] * 4 + [*b"3=>4", 256], [-1, -1, 256] + [-1] * 6]
    assert held_out.targets[0].tolist() == [-1, -1, -1, ord("3"), 256, -1, -1, -1, -1]


def test_an_evaluation_looks_at_so_many_examples_from_all_over(text, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "EVALUATED", 4)
    run, _ = training.open_run(text, tmp_path / "out", Settings(answers_after="="), None)
    assert [bytes(row[:3].tolist()) for row in run.held_out.ids] == [b"109", b"129", b"149"]  # of six


def test_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf1=2\n")
    assert training.read_text(file)[0] == "1=2\n"


def test_the_question_has_the_ids_that_it_has_when_it_is_asked(tmp_path):
    tokenizer = numgpt.load("storyteller").tokenizer
    whole, question = tokenizer.encode("the king"), tokenizer.encode("the ki")
    assert whole[: len(question)] != question  # so they must be parted before they are encoded
    texts = [(tmp_path, "the king\n" * 3), (tmp_path, "a kid\n")]
    training, _ = read_examples(texts, tokenizer, None, Settings(answers_after="ki"))
    assert training.ids[0, : len(question)].tolist() == question


def test_the_share_of_right_answers_is_that_of_greedy_decoding():
    """Answers that the model itself has made are right, to the end; with one id changed they are not."""
    params = map_leaves(lambda path, p: p * 12, random_params(SMALL, seed=2))
    questions = [[i, j] for i in range(4) for j in range(4)]
    made = numgpt.generate_batch(questions, params, SMALL._replace(eos_token_id=None), max_new_tokens=3, temperature=0)
    assert len({tuple(answer) for answer in made}) > 3
    ids = np.array([q + answer[:2] for q, answer in zip(questions, made, strict=True)])
    targets = np.array([[-1, *answer] for answer in made])
    for row, column in (3, 1), (8, 3), (9, 2):
        targets[row, column] = (targets[row, column] + 1) % 9
    for size in 1, 5, 16:
        assert evaluate(Examples(ids, targets), params, SMALL, size)[1] == 13 / 16


def test_the_loss_of_an_evaluation_weighs_each_target_alike():
    params = random_params(SMALL, dtype=np.float64)
    ids = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 1]])
    targets = np.array([[2, 3, 4], [-1, -1, 7], [-1, 1, 2]])
    logits = np.array([numgpt.forward(row, params, SMALL) for row in ids])
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = np.mean([-log_probs[i, t, targets[i, t]] for i, t in np.argwhere(targets >= 0)])
    for size in 1, 2, 3:
        assert evaluate(Examples(ids, targets), params, SMALL, size)[0] == pytest.approx(expected, rel=1e-12)


# ---- a run


def test_a_run_learns_and_leaves_a_folder_that_loads(text, tmp_path):
    lines = [f"{a}{b}={b}{a}\n" for a in "abcde" for b in "abcde"]
    text.write_text("".join(lines * 2), encoding="utf-8")  # so those held out, the last five, are of the rest's kind
    seen = []
    options = {**TINY, "steps": 300, "batch_size": 16, "learning_rate": 0.02, "n_embd": 16}
    model = train(text, tmp_path / "out", **options, report=seen.append, eval_interval=100)
    assert [progress.step for progress in seen if progress.val_loss is not None] == [100, 200, 300]
    assert seen[-1].loss < 0.1 < 5 < seen[0].loss
    assert seen[-1].tokens == 300 * 16 * 5
    assert seen[0].learning_rate == 0.01
    assert seen[-1].learning_rate == 0.002
    loaded = numgpt.load(tmp_path / "out")
    assert numgpt.complete(loaded, "ab=", max_new_tokens=9, temperature=0) == "ba"  # and ends there
    assert numgpt.complete(model, "cd=", max_new_tokens=9, temperature=0) == "dc"
    assert sorted(files(tmp_path / "out")) == ["config.json", "merges.txt", *sorted(FILES), "vocab.json"]


@pytest.mark.parametrize("eval_interval", [1, 3, 50])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(text, tmp_path, eval_interval):
    train(text, tmp_path / "whole", **TINY)

    def interrupt(progress):
        if progress.step in (2, 5):
            raise KeyboardInterrupt

    losses = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(text, tmp_path / "parts", **TINY, eval_interval=eval_interval, report=interrupt)
    train(text, tmp_path / "parts", **TINY, eval_interval=eval_interval, report=losses.append)
    assert [progress.step for progress in losses] == [6, 7]
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    before = files(tmp_path / "whole")
    train(text, tmp_path / "whole", **TINY, report=lambda progress: pytest.fail("there was nothing left to do"))
    assert files(tmp_path / "whole") == before


@posix
@pytest.mark.thorough
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bits(text, tmp_path):
    train(text, tmp_path / "whole", **{**TINY, "steps": 60})
    for delay in 1, 12, 25:
        arguments = [
            text,
            tmp_path / "parts",
            *FLAGS,
            "--steps",
            60,
            "--warmup-steps",
            2,
            "--eval-interval",
            1,
            "--json",
        ]
        with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE) as process:
            for _ in range(delay):
                line = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert json.loads(line)["val_loss"] > 0
        numgpt.load(tmp_path / "parts")
    train(text, tmp_path / "parts", **{**TINY, "steps": 60}, eval_interval=1)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


KILLED = 17
EVENTS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


def killed_at(n, folder, run):
    """Run something in a process that ends, as by SIGKILL, just before its n-th change of the files of a folder."""
    child = os.fork()
    if not child:
        left = n

        def hook(event, arguments):
            nonlocal left
            writes = event in EVENTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            if writes and str(arguments[0]).startswith(str(folder)):
                left -= 1
                if left == 0:
                    os._exit(KILLED)

        sys.addaudithook(hook)
        try:
            run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.thorough
def test_killed_before_any_change_of_a_file_it_leaves_a_checkpoint_that_loads_and_goes_on(text, tmp_path):
    options = {**TINY, "steps": 2, "warmup_steps": 1, "eval_interval": 1}
    train(text, tmp_path / "whole", **options)
    expected = files(tmp_path / "whole")

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(text, tmp_path / "first", **options, report=stop)
    n = 1
    while True:
        folder = tmp_path / f"run{n}"
        shutil.copytree(tmp_path / "first", folder)
        was_killed = killed_at(n, folder, lambda folder=folder: train(text, folder, **options))
        numgpt.load(folder)
        train(text, folder, **options)
        assert files(folder) == expected, n
        if not was_killed:
            break
        n += 1
    assert n > 8  # a folder, two files that are written, renamed and moved up, and the folder removed


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_while_it_makes_its_folder_it_begins_anew(text, tmp_path):
    options = {**TINY, "steps": 1, "warmup_steps": 1}
    train(text, tmp_path / "whole", **options)
    n, folder = 1, tmp_path / "run"
    while killed_at(n, folder, lambda: train(text, folder, **options)) and not folder.exists():
        n += 1
    train(text, folder, **options)
    assert n > 5
    assert files(folder) == files(tmp_path / "whole")


@posix
def test_only_one_process_at_a_time_is_at_a_run(text, tmp_path, capsys):
    """Else each would take away what the other is writing."""

    def report(progress):
        if progress.step == 3:
            code, _, err = call(capsys, text, tmp_path / "out", *FLAGS, "--steps", 7, "--warmup-steps", 2)
            assert code == 1
            assert "out: another process is at this run: wait for it, or end it\n" in err

    train(text, tmp_path / "out", **TINY, report=report)
    train(text, tmp_path / "whole", **TINY)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("call", range(1, 5))
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(text, tmp_path, monkeypatch, call):
    """Each of the files, at the start and at the end."""
    fsync, calls = os.fsync, 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    options = {**TINY, "steps": 1, "warmup_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"can't be written: No space left on device: free some space"):
            train(text, tmp_path / "out", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sort.txt"][call < 3 :]
    if call > 2:
        numgpt.load(tmp_path / "out")
        assert not (tmp_path / "out" / "unfinished").exists()
    train(text, tmp_path / "out", **options)
    train(text, tmp_path / "whole", **options)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(text, tmp_path, capsys):
    arguments = [text, tmp_path / "out", *FLAGS, "--steps", 9, "--warmup-steps", 0, "--eval-interval", 1]
    code, _, err = call(capsys, *arguments, "--learning-rate", "1e30", "-q")
    assert code == 1
    assert err.startswith("numgpt: error: step 1: the loss is 5.5")
    assert f"it diverged; {tmp_path / 'out'} keeps step 0: begin anew with a smaller learning_rate, here 1e+30" in err
    assert all(np.isfinite(x).all() for _, x in leaves(numgpt.load(tmp_path / "out").params))


def test_float64_stays(text, tmp_path):
    model = train(text, tmp_path / "out", **TINY, dtype="float64")
    assert model.params["wte"].dtype == np.float64


# ---- where it starts


def test_a_run_may_start_from_a_checkpoint_with_its_sizes_and_vocabulary(text, tmp_path):
    source = tmp_path / "source"
    sizes = {"vocab_size": TOKENS, "n_positions": 12, "n_embd": 6, "n_head": 2, "n_layer": 2, "n_inner": 10}
    config = {"model_type": "gpt2", **sizes, "eos_token_id": TOKENS - 1, "resid_pdrop": 0.3}
    write_checkpoint(source, hub_tensors(TOKENS, 12), config)
    write_tokenizer(source)
    options = {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-9, "answers_after": "=", "start": str(source)}
    model = train(text, tmp_path / "out", **options)
    start = numgpt.load(source)
    assert model.config == start.config
    assert model.tokenizer.vocabulary == start.tokenizer.vocabulary
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["resid_pdrop"] == 0.3
    for (path, x), (_, y) in zip(leaves(model.params), leaves(start.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-7, err_msg=path)
    shutil.rmtree(source)  # a run that has begun needs it no more
    train(text, tmp_path / "out", **options)


def test_matrices_lie_in_memory_as_they_will_when_the_run_goes_on(text, tmp_path):
    """Or products would come out with other bits: those of a checkpoint may lie by columns."""
    source = tmp_path / "source"
    sizes = {"vocab_size": TOKENS, "n_positions": 12, "n_embd": 6, "n_head": 2, "n_layer": 2, "n_inner": 130}
    write_checkpoint(source, hub_tensors(TOKENS, 12, n_inner=130), {"model_type": "gpt2", **sizes})
    write_tokenizer(source)
    assert not all(x.flags.c_contiguous for _, x in leaves(numgpt.load(source).params))
    settings = Settings(start=str(source))  # windows, no longer than the context of 12
    for _ in range(2):
        run, state = training.open_run(text, tmp_path / "out", settings, None)
        assert run.training.ids.shape[1] == 12
        assert all(x.flags.c_contiguous for _, x in leaves(list(state[1:])))


def test_a_new_model_may_have_the_vocabulary_of_another(text, tmp_path):
    model = train(text, tmp_path / "out", **TINY, tokenizer="storyteller")
    assert model.config.n_vocab == 4096
    assert model.config.eos_token_id == 4095
    assert model.tokenizer.encode("Once upon a time") == [46, 1198, 2402, 257, 640]


def test_block_size_is_the_context_of_a_new_model(text, tmp_path):
    assert train(text, tmp_path / "a", **TINY).config.n_ctx == 7  # the lines', which end unseen
    assert train(text, tmp_path / "b", **TINY, block_size=20).config.n_ctx == 20
    assert train(text, tmp_path / "c", **{**TINY, "answers_after": None}, block_size=20).config.n_ctx == 20


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps is 0, expected an integer of 1 or more"),
        ("batch_size", -1, "batch_size is -1, expected an integer of 1 or more"),
        ("block_size", 0, "block_size is 0, expected an integer of 1 or more"),
        ("n_layer", 0, "n_layer is 0, expected an integer of 1 or more"),
        ("n_embd", 9, "n_embd is 9, expected a multiple of n_head, 2"),
        ("learning_rate", 0, "learning_rate is 0, expected a number above 0"),
        ("learning_rate", math.nan, "learning_rate is nan, expected a number above 0"),
        ("min_lr", 1.0, "min_lr is 1.0, expected a number from 0 to learning_rate, 0.001"),
        ("warmup_steps", -1, "warmup_steps is -1, expected an integer of 0 or more"),
        ("weight_decay", -0.1, "weight_decay is -0.1, expected a number, 0 or more"),
        ("grad_clip", math.inf, "grad_clip is inf, expected a number, 0 or more"),
        ("beta1", 1.0, "beta1 is 1.0, expected a number from 0 to below 1"),
        ("beta2", -0.5, "beta2 is -0.5, expected a number from 0 to below 1"),
        ("seed", -1, "seed is -1, expected an integer from 0 to 2^64 - 1"),
        ("dtype", "float16", "dtype is 'float16', expected float32 or float64"),
        ("answers_after", "", "answers_after is '', expected one or more characters"),
        ("start", "storyteller", "n_layer is 1, expected nothing: storyteller has its own sizes"),
        ("eval_interval", 0, "eval_interval is 0, expected an integer of 1 or more"),
        ("tokenizer", "nope", "no checkpoint 'nope'"),
    ],
)
def test_a_setting_out_of_its_range_is_named_before_any_work(text, tmp_path, name, value, message):
    with pytest.raises(NumgptError) as caught:
        train(text, tmp_path / "out", **{**TINY, name: value})
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("raw", "flags", "message"),
    [
        (b"", [], "empty, expected a text to learn from"),
        (b" \n\n", ["--answers-after", "="], "empty, expected a text to learn from"),
        (b"ab\xffc" * 99, [], "byte 0xff at 2 is not UTF-8: convert it"),
        (b"x" * 500, [], "its last tenth, held out, has 50 tokens, expected 65 or more: give more text, or a smaller"),
        (b"x" * 40, ["--block-size", "36"], "all but its last tenth has 36 tokens, expected 37 or more"),
        (
            b"1=2\n34\n5=6\n",
            ["--answers-after", "="],
            "line 2: no '=' in '34', expected a question, '=' and the answer",
        ),
        (b"1=2\n1=2\n", ["--answers-after", "="], "no lines are left to learn from: expected 2 or more that differ"),
        (
            b"1=2\n123=456\n3=4\n",
            ["--answers-after", "=", "--block-size", "6"],
            "line 2: 7 tokens, expected at most 6: shorten it, or give a larger block_size",
        ),
        (b"1=2\n3=" + b"4" * 1023 + b"\n", ["--answers-after", "="], "line 2: 1025 tokens, expected at most 1024"),
        (
            b"x " * 900,
            ["--from", "storyteller", "--block-size", "513"],
            "block_size is 513, expected at most 512, the context of storyteller",
        ),
        (b"x", ["--from", "storyteller", "--tokenizer", "gpt2"], "tokenizer is 'gpt2', expected nothing: storyteller"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_before_any_work(tmp_path, capsys, raw, flags, message):
    file = tmp_path / "text.txt"
    file.write_bytes(raw)
    code, out, err = call(capsys, file, tmp_path / "out", *flags)
    assert (code, out) == (1, "")
    assert err.startswith("numgpt: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_text_that_is_not_there_is_named(tmp_path):
    result = subprocess.run(
        command(tmp_path / "no.txt", tmp_path / "out"), capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert result.stderr.decode() == f"numgpt: error: {tmp_path / 'no.txt'}: No such file or directory\n"


def test_a_folder_of_another_run_is_refused_with_what_differs(text, tmp_path):
    train(text, tmp_path / "out", **TINY)
    before = files(tmp_path / "out")
    with pytest.raises(OptionError) as caught:
        train(text, tmp_path / "out", **{**TINY, "steps": 9, "n_embd": 16})
    assert "out: belongs to another run: steps was 7 and is 9; n_embd was 8 and is 16: give the same" in str(
        caught.value
    )
    text.write_text(SORTED + "9=9\n", encoding="utf-8")
    with pytest.raises(
        OptionError, match=r"another run: sha256 of the text was '[0-9a-f]{64}' and is '[0-9a-f]{64}': "
    ):
        train(text, tmp_path / "out", **TINY)
    assert files(tmp_path / "out") == before


def test_a_folder_of_something_else_is_refused_and_an_empty_one_taken(text, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    train(text, folder, **TINY)
    (folder / "training.safetensors").unlink()
    for taken in folder, text:
        with pytest.raises(
            OptionError, match="is there already, and no run of training: give the name of a new folder"
        ):
            train(text, taken, **TINY)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-8], "where the file ends: the file is damaged"),
        (lambda raw: raw.replace(b'"step":"7"', b'"step":"x"'), "no step in it: it is no state of this model"),
        (lambda raw: raw.replace(b'"m.wpe"', b'"m.wpx"'), "missing: m.wpe; left over: m.wpx"),
        (lambda raw: raw.replace(b'"settings"', b'"sittings"'), "no settings in it: it is no state of training"),
    ],
)
def test_a_damaged_state_is_refused(text, tmp_path, damage, message):
    train(text, tmp_path / "out", **TINY)
    state = tmp_path / "out" / "training.safetensors"
    damaged = damage(state.read_bytes())
    assert damaged != state.read_bytes()
    state.write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:
        train(text, tmp_path / "out", **TINY)
    assert message in str(caught.value)


# ---- the command line


def test_the_command_shows_how_it_gets_on_and_names_the_folder(text, tmp_path, capsys):
    arguments = [text, tmp_path / "out", *FLAGS, "--max-iters", 4, "--warmup-iters", 1, "--eval-interval", 2]
    code, out, err = call(capsys, *arguments)
    assert code == 0
    assert out == f"{tmp_path / 'out'}\n"
    lines = err.splitlines()
    assert [line.split(":")[1] for line in lines[:2]] == [" step 2", " step 4"]
    assert "of held-out answers right" in lines[0]
    assert lines[-1].startswith(f"{tmp_path / 'out'}: 4 steps")
    assert call(capsys, *arguments)[2] == "numgpt: all 4 steps were done before\n"
    assert call(capsys, *arguments, "-q") == (0, f"{tmp_path / 'out'}\n", "")


def test_the_command_equals_the_library(text, tmp_path, capsys):
    flags = ["--steps", 7, "--warmup-steps", 2, "--learning-rate", 0.01, "--min-lr", 0.002, "--weight-decay", 0.3]
    flags += ["--beta1", 0.8, "--beta2", 0.9, "--grad-clip", 0.5, "--seed", 5, "--dtype", "float64", "--n-ctx", 9]
    val = tmp_path / "val.txt"
    val.write_text("21=12\n3210=0123\n", encoding="utf-8")
    call(capsys, text, tmp_path / "a", *FLAGS, *flags, "--val", val, "--allow-special")
    options = {"learning_rate": 0.01, "min_lr": 0.002, "weight_decay": 0.3, "beta1": 0.8, "beta2": 0.9, "seed": 5}
    options |= {"grad_clip": 0.5, "dtype": "float64", "block_size": 9, "allow_special": True}
    train(text, tmp_path / "b", **TINY, **options, val_file=val)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_json_has_a_line_for_each_step(text, tmp_path, capsys):
    arguments = [
        text,
        tmp_path / "out",
        *FLAGS,
        "--steps",
        4,
        "--warmup-steps",
        1,
        "--eval-interval",
        2,
        "--json",
        "-q",
    ]
    code, out, err = call(capsys, *arguments)
    assert (code, err) == (0, "")
    steps = [json.loads(line) for line in out.splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert [step["val_loss"] is None for step in steps] == [True, False, True, False]
    assert 0 <= steps[-1]["exact_match"] <= 1
    assert set(steps[0]) == {"step", "loss", "learning_rate", "grad_norm", "tokens", "val_loss", "exact_match"}


@posix
def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(text, tmp_path):
    arguments = [text, tmp_path / "out", *FLAGS, "--steps", 1000000, "--warmup-steps", 2, "--json"]
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    told = re.search(rb"numgpt: stopped after step (\d+), which is kept: the same command goes on\n", err)
    kept = int(read_header(tmp_path / "out" / "training.safetensors")[1]["step"])
    assert int(told[1]) in (kept, kept - 1)  # it may be stopped between a step and the word on it


def test_the_examples_of_the_help_are_read_by_the_parser():
    for line in cli.EXAMPLES["train"].splitlines()[1:]:
        words = line.split("    ")[0].replace('"', "").split()
        if words[:2] == ["numgpt", "train"]:
            assert cli.parser().parse_args(words[1:]).file == words[2]


def test_a_folder_may_be_given_by_a_link(text, tmp_path):
    (tmp_path / "far").mkdir()
    Path(tmp_path / "link").symlink_to(tmp_path / "far", target_is_directory=True)
    train(text, tmp_path / "link", **TINY)
    assert (tmp_path / "link").is_symlink()
    assert set(FILES) <= set(files(tmp_path / "far"))

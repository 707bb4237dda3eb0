"""Runs that nothing undoes; what is refused; the command."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import TOKENS, hub_tensors, write_checkpoint, write_tokenizer
from support.runs import FILES, FLAGS, SORTED, TINY, call, command, files, posix

import numgpt
from numgpt.checkpoint.safetensors import read_header
from numgpt.cli import learning
from numgpt.cli import main as cli
from numgpt.errors import CheckpointError, NumgptError, OptionError
from numgpt.params import leaves
from numgpt.training import run as training
from numgpt.training.run import train
from numgpt.training.settings import Settings

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
    for line in learning.EXAMPLES.splitlines()[1:]:
        words = line.split("    ")[0].replace('"', "").split()
        if words[:2] == ["numgpt", "train"]:
            assert cli.parser().parse_args(words[1:]).file == words[2]


def test_a_folder_may_be_given_by_a_link(text, tmp_path):
    (tmp_path / "far").mkdir()
    Path(tmp_path / "link").symlink_to(tmp_path / "far", target_is_directory=True)
    train(text, tmp_path / "link", **TINY)
    assert (tmp_path / "link").is_symlink()
    assert set(FILES) <= set(files(tmp_path / "far"))

"""Runs: they learn, stop and go on to the same bits, from wherever they start; and the command."""

import json
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
from support import llmcs
from support.checkpoints import TOKENS, hub_tensors, write_checkpoint, write_tokenizer
from support.runs import FILES, FLAGS, TINY, call, command, files, posix

import numgpt
from numgpt.checkpoint.pieces import spellings
from numgpt.checkpoint.safetensors import read_header
from numgpt.cli import learning
from numgpt.cli import main as cli
from numgpt.errors import OptionError, TokenError
from numgpt.hub.loading import load_tokenizer
from numgpt.params import leaves
from numgpt.training import run as training
from numgpt.training.run import train
from numgpt.training.settings import Settings


@pytest.mark.thorough
def test_an_evaluation_looks_at_so_many_examples_from_all_over(text, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "EVALUATED", 4)
    run, _ = training.open_run(text, tmp_path / "out", Settings(answers_after="="), None)
    assert [bytes(row[:3].tolist()) for row in run.held_out.ids] == [b"109", b"129", b"149"]  # of six


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


def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(text, tmp_path, capsys):
    arguments = [text, tmp_path / "out", *FLAGS, "--steps", 9, "--warmup-steps", 0, "--eval-interval", 1]
    code, _, err = call(capsys, *arguments, "--learning-rate", "1e30", "-q")
    assert code == 1
    assert err.startswith("numgpt: error: step 1: the loss is 5.5")
    assert f"it diverged; {tmp_path / 'out'} keeps step 0: begin anew with a smaller --learning-rate, here 1e+30" in err
    assert all(np.isfinite(x).all() for _, x in leaves(numgpt.load(tmp_path / "out").params))


def test_float64_stays(text, tmp_path):
    model = train(text, tmp_path / "out", **TINY, dtype="float64")
    assert model.params["wte"].dtype == np.float64


def test_a_run_may_start_from_a_checkpoint_with_its_sizes_and_vocabulary(text, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path))  # where names are looked up
    source = tmp_path / "source"
    sizes = {"vocab_size": TOKENS, "n_positions": 12, "n_embd": 6, "n_head": 2, "n_layer": 2, "n_inner": 10}
    config = {"model_type": "gpt2", **sizes, "eos_token_id": TOKENS - 1, "resid_pdrop": 0.3}
    write_checkpoint(source, hub_tensors(TOKENS, 12), config)
    write_tokenizer(source)
    options = {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-9, "answers_after": "=", "start": "source"}
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


def test_ids_of_a_file_are_learned_as_the_text_that_they_are(text, tmp_path):
    ids = llmcs.write(tmp_path / "train.bin", llmcs.tokens(list(text.read_bytes())))
    held_out = llmcs.write(tmp_path / "val.bin", llmcs.tokens(list(b"101=011\n" * 9)))
    (tmp_path / "val.txt").write_text("101=011\n" * 9, encoding="utf-8")
    options = {**TINY, "answers_after": None, "block_size": 8}
    train(text, tmp_path / "text", **options, val_file=tmp_path / "val.txt")
    for name, val in ("ids", held_out), ("both", tmp_path / "val.txt"):
        train(ids, tmp_path / name, **options, val_file=val)
        assert (tmp_path / name / FILES[0]).read_bytes() == (tmp_path / "text" / FILES[0]).read_bytes()


def test_a_run_on_ids_starts_from_a_model_without_a_tokenizer(text, tmp_path):
    ids = llmcs.write(tmp_path / "train.bin", llmcs.tokens([1, 2, 3, 4, 10] * 40))
    source = llmcs.write(tmp_path / "m.bin", llmcs.model(hub_tensors(n_inner=24)))
    options = {"steps": 2, "batch_size": 2, "start": str(source)}
    assert train(ids, tmp_path / "whole", **options).tokenizer is None
    train(ids, tmp_path / "parts", **{**options, "steps": 1})
    train(ids, tmp_path / "parts", **options)
    assert (tmp_path / "parts" / FILES[0]).read_bytes() == (tmp_path / "whole" / FILES[0]).read_bytes()
    with pytest.raises(TokenError, match="this model has no tokenizer, which text needs"):
        train(text, tmp_path / "other", **options)


def test_more_steps_go_on_from_the_last(text, tmp_path):
    options = {**TINY, "min_lr": TINY.get("learning_rate", 1e-3)}  # constant, so that a step does not depend on the end
    train(text, tmp_path / "whole", **{**options, "steps": 7})
    seen = []
    for steps in (3, 3, 7, 5):
        train(text, tmp_path / "parts", **{**options, "steps": steps}, report=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6, 7]
    one, other = (dict(leaves(numgpt.load(tmp_path / name).params)) for name in ("whole", "parts"))
    assert all((one[path] == other[path]).all() for path in one)
    with pytest.raises(OptionError, match="belongs to another run: seed was 0 and is 5: give"):
        train(text, tmp_path / "parts", **{**options, "steps": 9, "seed": 5})


@pytest.mark.parametrize("beside", ["tokenizer_config.json", "config.json", None])
def test_a_new_model_keeps_all_that_the_tokenizer_is(text, tmp_path, beside):
    """Also where the class alone, or none, says that tokenizer.json has the say on the space before a text."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    ids = {**{piece: i for i, piece in enumerate(spellings())}, "<|endoftext|>": 256}
    added = [
        {"id": 256, "content": "<|endoftext|>", "special": True},
        {"id": 257, "content": "<|user|>", "special": True, "rstrip": True},
        {"id": 258, "content": "10", "special": False},
    ]
    files = {
        "tokenizer.json": {
            "added_tokens": added,
            "pre_tokenizer": level,
            "decoder": level,
            "model": {"type": "BPE", "vocab": ids, "merges": []},
        },
        "special_tokens_map.json": {"pad_token": "<|pad|>"},
    }
    if beside:
        files[beside] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    model = train(text, tmp_path / "out", **TINY, tokenizer=str(folder))
    want = load_tokenizer(folder).encode("10+<|user|> 2<|pad|>", allow_special=True)
    assert want == [258, ids["Ġ"], ids["+"], 257, ids["Ġ"], ids["2"], 259]
    assert model.tokenizer.encode("10+<|user|> 2<|pad|>", allow_special=True) == want
    assert model.config.n_vocab == 260
    shutil.rmtree(folder)  # a run that has begun needs it no more
    train(text, tmp_path / "out", **TINY, tokenizer=str(folder))


def test_block_size_is_the_context_of_a_new_model(text, tmp_path):
    assert train(text, tmp_path / "a", **TINY).config.n_ctx == 7  # the lines', which end unseen
    assert train(text, tmp_path / "b", **TINY, block_size=20).config.n_ctx == 20
    assert train(text, tmp_path / "c", **{**TINY, "answers_after": None}, block_size=20).config.n_ctx == 20


def test_a_text_that_is_not_there_is_named(tmp_path, capsys):
    code, _, err = call(capsys, tmp_path / "no.txt", tmp_path / "out")
    assert code == 1
    assert err == f"numgpt: error: {tmp_path / 'no.txt'}: No such file or directory\n"


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

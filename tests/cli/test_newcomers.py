"""What people type who use it for the first time, and what they are told."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import CONFIG, TOKENS, hub_tensors, write_checkpoint, write_tokenizer
from support.cli import call, pipe_in, run
from support.jobs import write_lines

import numgpt
from numgpt.cli import threads
from numgpt.errors import CheckpointError, OptionError

pytestmark = pytest.mark.usefixtures("storyteller_once")


@pytest.fixture(scope="module")
def without_tokenizer(tmp_path_factory):
    """A checkpoint of four layers that has no tokenizer files, and a folder that has nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    write_checkpoint(folder / "model", hub_tensors(TOKENS), {**CONFIG, "vocab_size": TOKENS})
    (folder / "words").mkdir()
    write_tokenizer(folder / "words")
    return folder


# ---- texts


@pytest.mark.parametrize("arguments", [["tokenize"], ["score"], ["trace", "--names", "embed"]])
def test_what_is_piped_in_is_the_text_with_and_without_a_dash(capsys, monkeypatch, tmp_path, arguments):
    (tmp_path / "text").write_bytes(b"The king")
    for dash in [], ["-"]:
        with open(tmp_path / "text", encoding="utf-8") as file:
            monkeypatch.setattr(sys, "stdin", file)
            code, out, err = call(capsys, *arguments, *dash, "--json")
        assert code == 0, err
        assert json.loads(out)["ids"] == [464, 479, 278]


def test_generate_continues_what_is_piped_in():
    result = run("generate", "-n", "3", "--temperature", "0", "-q", stdin=b"Once\n")
    assert result.stdout.decode() == "Once upon a time\n"


@pytest.mark.parametrize(
    "raw",
    [b"\xef\xbb\xbfThe king\r\n!", "The king\r\n!".encode("utf-16"), b"The king\n!"],
    ids=["utf-8", "16", "plain"],
)
def test_marks_and_windows_line_ends_are_no_text_wherever_it_comes_from(capsys, monkeypatch, tmp_path, raw):
    expected = [464, 479, 278, 198, 0]
    (tmp_path / "text").write_bytes(raw)
    with open(tmp_path / "text", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert json.loads(call(capsys, "tokenize", "--json")[1])["ids"] == expected
    scored = call(capsys, "score", "--file", tmp_path / "text", "--json")
    assert json.loads(scored[1])["ids"] == expected


def test_a_mark_before_what_is_said_in_a_chat_is_no_text(capsys, monkeypatch):
    pipe_in(monkeypatch, b"\xef\xbb\xbfHello!\r\n")
    said = call(capsys, "chat", "--json", "-n", "2", "--seed", "1")
    assert json.loads(said[1])["message"] == "Hello!"


def test_a_text_that_is_the_name_of_a_file_gets_a_hint(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("The king", encoding="utf-8")
    code, _, err = call(capsys, "tokenize", "story.txt")
    assert code == 0
    assert "'story.txt', which is a file here too: to read the file, add - and < story.txt" in err


def test_several_words_without_quotes_are_told_of_them(capsys):
    code, _, err = call(capsys, "generate", "Once", "there", "was")
    assert code == 2
    assert (
        'unrecognized arguments: there was: a text of several words goes into quotes, as in numgpt generate "Once'
        in err
    )


def test_no_text_at_all_is_wrong_usage(capsys):
    for command in "tokenize", "score", "trace":
        code, _, err = call(capsys, command)
        assert (code, "give a text" in err) == (2, True)


def test_ids_are_decoded(capsys):
    assert call(capsys, "tokenize", "--decode", "464,479,278")[1] == "The king\n"
    assert json.loads(call(capsys, "tokenize", "--decode", "464", "--json")[1]) == {"ids": [464], "text": "The"}
    assert "--decode is 'a', expected numbers with commas between" in call(capsys, "tokenize", "--decode", "a")[2]
    assert call(capsys, "tokenize", "The", "--decode", "1")[0] == 2


# ---- names, folders, files


def test_the_home_folder_is_meant_by_a_tilde_in_variables_and_options(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("NUMGPT_WEIGHTS", "~/models")
    assert json.loads(call(capsys, "models", "--json")[1])["folder"] == str(tmp_path / "models")
    assert call(capsys, "convert", "storyteller", "~/copy", "-q")[0] == 0
    assert (tmp_path / "copy" / "model.safetensors").is_file()
    assert call(capsys, "tokenize", "The", "-m", "~/copy")[0] == 0
    assert numgpt.load("~/copy").config.n_layer == 6


def test_a_name_that_is_nearly_known_is_asked_for(capsys):
    assert "no name of one to download: did you mean gpt2?" in call(capsys, "generate", "x", "-m", "gpt-2")[2]


def test_without_a_network_it_is_said_at_once_who_was_asked_and_what_helps(capsys, tmp_path, monkeypatch):
    variables = {"HF_ENDPOINT": "http://no-such-host.invalid", "NUMGPT_WEIGHTS": str(tmp_path)}
    for name, value in {**variables, "HF_HUB_OFFLINE": "", "NO_PROXY": "*"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = call(capsys, "generate", "x", "-m", "gpt2")
    assert code == 1
    asked, error = err.splitlines()
    assert asked == "numgpt: gpt2 is not on this machine: asking http://no-such-host.invalid for it"
    assert error.startswith("numgpt: error: ")
    assert error.endswith(
        "there is no network, or no such host: give a folder with the model's files, or set HF_ENDPOINT to a mirror; "
        "what is in the Hugging Face cache needs no network"
    )


def test_a_folder_names_the_folders_below_that_have_weights(tmp_path, without_tokenizer):
    for step in 500, 1000:
        (tmp_path / f"checkpoint-{step}").symlink_to(without_tokenizer / "model")
    with pytest.raises(
        CheckpointError, match=r"no weights here, but in folders below: checkpoint-1000, checkpoint-500"
    ):
        numgpt.load(tmp_path)


def test_an_array_of_numpy_is_called_what_it_is(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match=r"it looks like an \.npy file, one array of NumPy"):
        numgpt.load(tmp_path / "x.npy")


def test_a_tokenizer_may_be_named_for_a_checkpoint_that_has_none(capsys, without_tokenizer):
    model, words = without_tokenizer / "model", without_tokenizer / "words"
    code, _, err = call(capsys, "generate", "a", "-m", model, "-n", "2")
    assert (code, "name one (--tokenizer gpt2)" in err) == (1, True)
    for command in ["generate", "a", "-n", "2"], ["score", "abc"], ["trace", "abc"], ["tokenize", "abc"]:
        assert call(capsys, *command, "-m", model, "--tokenizer", words)[0] == 0
    assert "the tokenizer has 50256 tokens" in call(capsys, "score", "abc", "-m", model, "--tokenizer", "gpt2")[2]


# ---- options and results


def test_a_seed_is_named_only_where_something_is_drawn(capsys):
    for how in ["--temperature", "0"], ["--num-beams", "2"]:
        assert json.loads(call(capsys, "generate", "Once", "-n", "3", "--json", *how)[1])["seed"] is None
    assert json.loads(call(capsys, "generate", "Once", "-n", "3", "--json", "--seed", "7")[1])["seed"] == 7


def test_beams_tell_their_scores_and_all_texts_the_tokens_of_the_prompt(capsys):
    out = call(capsys, "generate", "Once upon", "-n", "3", "--json", "--num-beams", "3", "--num-return-sequences", "2")[
        1
    ]
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[0]["score"] >= rows[1]["score"]
    assert [row["prompt_tokens"] for row in rows] == [3, 3]
    assert "score" not in json.loads(call(capsys, "generate", "Once", "-n", "1", "--json")[1])


def test_log_probabilities_are_those_of_the_model(capsys):
    row = json.loads(call(capsys, "generate", "Once upon", "-n", "4", "--json", "--seed", "1", "--logprobs", "2")[1])
    model = numgpt.load("storyteller", dtype="float64")
    ids = model.tokenizer.encode("Once upon") + row["ids"]
    logits = numgpt.forward(ids, model.params, model.config)
    for t, token in enumerate(row["logprobs"], 3):
        log_p = logits[t - 1] - np.log(np.exp(logits[t - 1]).sum())
        assert token["id"] == ids[t]
        assert token["log_prob"] == pytest.approx(log_p[ids[t]], abs=1e-4)
        assert [top["id"] for top in token["top"]] == np.argsort(-log_p)[:2].tolist()
        assert token["top"][0]["token"] == model.tokenizer.decode([token["top"][0]["id"]])
    for wrong in (
        ["--logprobs", "2"],
        ["--json", "--logprobs", "-1"],
        ["--json", "--logprobs", "1", "--overflow", "slide"],
    ):
        assert call(capsys, "generate", "Once", *wrong)[0] == 2


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("temprature", "did you mean temperature?"),
        ("do_sample", "did you mean temperature (0 is greedy)?"),
        ("max_length", "did you mean max_new_tokens?"),
        ("wings", "expected one of max_new_tokens, seed, "),
    ],
)
def test_an_unknown_option_in_python_names_the_nearest(name, remedy):
    model = numgpt.load("storyteller")
    with pytest.raises(OptionError) as caught:
        numgpt.complete(model, "Once", max_new_tokens=2, **{name: 1})
    assert str(caught.value).startswith(f"{name} is no option of generate: {remedy}")


def test_a_model_shows_itself_in_a_line():
    text = repr(numgpt.load("storyteller"))
    assert text.startswith(
        "Model(5,918,720 parameters in float32: 6 layers, 8 heads, n_embd 256, n_ctx 512, n_vocab 4096; "
    )
    assert len(text) < 200


# ---- jobs


def test_a_line_has_its_own_options_and_keeps_what_is_none(capsys, tmp_path):
    source = write_lines(
        tmp_path / "in",
        {"prompt": "Once", "max_new_tokens": 3, "temperature": 0, "source": "tales", "n": [1]},
        {"prompt": "Once", "num_beams": 2, "max_new_tokens": 2},
        {"prompt": "Once", "stop_strings": [" time"], "temperature": 0, "logit_bias": {"7": -1.0}},
        {"prompt": "Once", "max_new_tokens": 0},
    )
    code, out, _ = call(capsys, "generate", "--input", source, "--output", "-", "-n", "6", "-q")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["line"] for row in rows] == [1, 2, 3, 4]
    assert (rows[0]["text"], rows[0]["source"], rows[0]["n"]) == (" upon a time", "tales", [1])
    assert len(rows[1]["ids"]) == 2
    assert (rows[2]["text"], rows[2]["finish_reason"]) == (" upon a", "stop")
    assert (rows[3]["text"], rows[3]["finish_reason"]) == ("", "length")
    call(capsys, "generate", "--input", source, "--output", tmp_path / "out", "-n", "6", "-q", "--batch-size", "1")
    assert [json.loads(line) for line in (tmp_path / "out").read_text(encoding="utf-8").splitlines()] == rows


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"prompt": "a", "temprature": 0}, '"temprature" is no option of a line: did you mean temperature?'),
        ({"prompt": "a", "max_tokens": 3}, '"max_tokens" is no option of a line: did you mean max_new_tokens?'),
        ({"prompt": "a", "top_p": 7}, "top_p is 7, expected a number above 0 and up to 1"),
    ],
)
def test_an_option_of_a_line_that_can_not_be_is_told_and_never_passed_over(capsys, tmp_path, line, reason):
    source = write_lines(tmp_path / "in", line, {"prompt": "Once", "temperature": 0, "max_new_tokens": 1})
    code, out, err = call(capsys, "generate", "--input", source, "--output", "-")
    assert code == 1
    assert [json.loads(row)["line"] for row in out.splitlines()] == [2]
    assert f"line 1: {reason}" in err


def test_a_text_is_scored_given_another(capsys, tmp_path):
    lines = (
        {"context": "Once upon", "text": " a time"},
        {"context": "Once upon ", "text": "a time"},
        {"text": "Once upon a time"},
    )
    code, out, _ = call(capsys, "score", "--input", write_lines(tmp_path / "in", *lines), "--output", "-", "-q")
    given, spaced, whole = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert (given["tokens"], given["context"]) == (2, "Once upon")
    assert given["log_probs"] == spaced["log_probs"] == whole["log_probs"][3:]
    model = numgpt.load("storyteller")
    assert numgpt.score(model, " a time", given="Once upon").nats == given["nats"]


# ---- trace


def test_trace_shows_the_likeliest_next_tokens_wherever_the_text_stands(capsys):
    code, out, _ = call(capsys, "trace", "--names", "logits", "Once upon a")
    assert code == 0
    assert "after position 3, ' a':" in out
    assert "0.9552  ' time'" in out
    before_and_after = call(
        capsys, "trace", "--names", "logits", "Once upon a", "--ablate", "h.5.attn.z:0", "--top", "1"
    )[1]
    assert before_and_after.splitlines()[-1].split() == ["0.9552", "->", "0.7699", "'", "time'"]
    assert "after position 1, 'nce':" in call(capsys, "trace", "Once upon a", "--names", "logits", "--at", "1")[1]


def test_trace_shows_who_looks_at_whom(capsys):
    out = call(capsys, "trace", "Once upon a", "--names", "h.5.attn.weights", "--at", "-1")[1]
    assert out.count("h.5.attn.weights, head") == 8
    rows = [line.split()[-4:] for line in out.splitlines() if line.startswith("  ' a'")]
    assert all(98 <= sum(map(int, row)) <= 102 for row in rows)
    code, _, err = call(capsys, "trace", "Once upon a", "--names", "logits", "--at", "9")
    assert (code, "--at is 9, expected a position, 0 to 3" in err) == (1, True)


# ---- threads


@pytest.mark.parametrize(("written", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("x", None)])
def test_a_quota_of_cpu_time_is_read_as_linux_has_it(tmp_path, monkeypatch, written, quota):
    monkeypatch.setattr(threads, "CONTROL_GROUPS", tmp_path)
    assert threads.cpu_quota() is None
    (tmp_path / "cpu.max").write_text(written, encoding="ascii")
    assert threads.cpu_quota() == quota


def test_under_a_quota_blas_has_as_many_threads_as_may_run(monkeypatch):
    monkeypatch.setattr(threads, "cpu_quota", lambda: 1.2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "")
    threads.set_threads("generate")
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    threads.set_threads("generate")
    assert os.environ["OPENBLAS_NUM_THREADS"] == "5"


def test_how_long_threads_wait_for_work_is_set_unless_somebody_has(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "26")
    threads.set_threads("generate")
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "26"
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT")
    threads.set_threads("generate")
    assert 4 <= int(os.environ["OPENBLAS_THREAD_TIMEOUT"]) <= 30

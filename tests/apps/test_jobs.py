"""Long jobs: what is done stays done, and the output is the same whatever happened on the way."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import SIZES, TOKENS, hub_tensors, write_checkpoint, write_tokenizer
from support.cli import call, fails
from support.jobs import read_results, write_lines

import numgpt
from numgpt.apps import jobs
from numgpt.apps.jobs import Job, Line, Output, Summary, run_job
from numgpt.apps.lines import parse, read_lines
from numgpt.decoding import batch
from numgpt.decoding.batch import NEAR, NEAR_ROUNDED, begin, choose_one, choose_surely
from numgpt.decoding.beam import beam_search
from numgpt.decoding.rules import check_rules
from numgpt.errors import NumgptError, OptionError

N_CTX = 32
WORDS = ["hi", "the king", "", "hi hi hi", "once", "a long way from here", "x"]
GENERATE = Job("generate", {"max_new_tokens": 6, "seed": 3})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The path of a model of 32 positions with a token for each byte."""
    folder = tmp_path_factory.mktemp("jobs") / "small"
    sizes = {**SIZES, "vocab_size": TOKENS, "n_positions": N_CTX, "eos_token_id": TOKENS - 1}
    write_checkpoint(folder, hub_tensors(TOKENS, N_CTX), {"model_type": "gpt2", **sizes})
    write_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def model(checkpoint):
    return numgpt.load(checkpoint)


@pytest.fixture
def source(tmp_path):
    return write_lines(tmp_path / "in.jsonl", *({"prompt": text, "id": i} for i, text in enumerate(WORDS)))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


def command(*arguments):
    return [sys.executable, "-m", "numgpt", *map(str, arguments)]


# ---- the results


FORM = {"regex": "(?s)[^e]{8}.*", "ban": ["a", " "]}


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"stop_strings": ["a", "k"]}, {"overflow": "slide"}, FORM])
def test_each_text_is_that_of_generate_with_the_stream_of_its_line(checkpoint, source, output, options):
    model = numgpt.load(checkpoint, dtype="float64")
    job = Job("generate", {"max_new_tokens": 40, "seed": 3, **options})
    assert run_job(job, model, source, output, batch_size=3).bad == 0
    tokenizer = model.tokenizer
    for i, (text, result) in enumerate(zip(WORDS, read_results(output), strict=True)):
        prompt = tokenizer.encode(text) or [TOKENS - 1]
        steps, ids = (
            numgpt.generate(prompt, model.params, model.config, stream=i + 1, tokenizer=tokenizer, **job.settings),
            [],
        )
        with pytest.warns() if result["finish_reason"] == "context" else pytest.MonkeyPatch.context():
            while True:
                try:
                    ids.append(next(steps))
                except StopIteration as end:
                    finish_reason = end.value
                    break
        made = tokenizer.decode(ids)
        for stop in options.get("stop_strings", ()):
            made = made.split(stop)[0]
        expected = {"line": i + 1, "id": i, "prompt": text, "text": made, "ids": ids, "finish_reason": finish_reason}
        assert result == expected
        assert list(result) == list(expected)


def test_beams_give_the_best_text(model, source, output):
    run_job(Job("generate", {"max_new_tokens": 4, "seed": 0, "num_beams": 3}), model, source, output)
    ids = model.tokenizer.encode(WORDS[1])
    best = beam_search(ids, model.params, model.config, max_new_tokens=4, num_beams=3)[0]
    assert read_results(output)[1]["ids"] == best.ids


def test_a_score_is_that_of_the_library(model, tmp_path, output):
    source = write_lines(tmp_path / "in.jsonl", {"text": "hi the king"}, {"text": ""}, {"text": "é", "id": {"a": [1]}})
    reports = []
    job = Job("score", {"context": 8, "stride": 8, "bos": False, "allow_special": False})
    summary = run_job(job, model, source, output, report=lambda *what: reports.append(what))
    assert summary == Summary(lines=3, before=0, made=2, bad=1, tokens=12)
    [[number, reason]] = reports
    assert number == 2
    assert "too short to score" in reason
    first, last = read_results(output)
    assert (last["line"], last["id"], last["text"]) == (3, {"a": [1]}, "é")
    found = numgpt.score(model, "hi the king", context=8, stride=8)
    assert first["ids"] == found.ids
    assert first["log_probs"] == [None if np.isnan(x) else x for x in found.log_probs]
    assert first["log_probs"].count(None) == 2  # the first of each window
    assert [first[name] for name in ("tokens", "nats", "perplexity", "bits_per_byte")] == [
        found.tokens,
        found.nats,
        found.perplexity,
        found.bits_per_byte,
    ]


FEW_OPTIONS = [{"temperature": 0}, {}, {"repetition_penalty": 1.2}]
FEW_OPTIONS += [{"temperature": 0, "cache_dtype": "float16"}]


@given(st.integers(0, 2**32), st.sampled_from(FEW_OPTIONS))
def test_a_choice_does_not_hang_on_rounding(model, dice, options):
    """The two best tokens have the same logits, so that the smallest noise would choose between them."""
    text = [104, 105]
    best = int(numgpt.forward(text, model.params, model.config)[-1].argmax())
    params = {**model.params, "wte": model.params["wte"].copy()}
    params["wte"][best - 1] = params["wte"][best]
    rules = check_rules(model.config, max_new_tokens=1, seed=dice, **options)
    exact = batch.exact_logits(text, params, model.config, rules.cache_dtype)
    assert exact.dtype == np.float64
    cache = numgpt.KVCache(model.config, rules.cache_dtype or np.float64)
    expected = numgpt.forward(text, to_float64(params), model.config, cache, logits_to_keep=1)[0]
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-9)
    near = NEAR_ROUNDED if rules.cache_dtype else NEAR
    noise = np.random.default_rng(dice).uniform(-near / 2, near / 2, len(exact))
    r = begin(5, text, model.params, model.config, rules)
    dtypes = {rules.cache_dtype}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "exact_logits", lambda *arguments: dtypes.add(arguments[3]) or exact)
        chosen = choose_surely((exact + noise).astype(np.float32), r, params, model.config)
    assert dtypes == {rules.cache_dtype}
    assert chosen == choose_one(exact, r, params, model.config)


def to_float64(params):
    return jobs.map_leaves(lambda _, x: x.astype(np.float64), params)


def test_a_fingerprint_sees_a_single_weight_and_the_tokenizer(model):
    params = {**model.params, "wpe": model.params["wpe"].copy()}
    assert jobs.fingerprint(model._replace(params=params)) == jobs.fingerprint(model)
    params["wpe"][3, 2] += 1
    assert jobs.fingerprint(model._replace(params=params)) != jobs.fingerprint(model)
    assert jobs.fingerprint(model._replace(tokenizer=None)) != jobs.fingerprint(model)


# ---- restarts


@given(st.data())
@pytest.mark.thorough
def test_from_any_part_of_an_output_the_job_comes_to_the_same_file(tmp_path_factory, model, data):
    """Some lines in any order, and a part of one more: what a kill leaves."""
    folder = tmp_path_factory.mktemp("part")
    source = write_lines(folder / "in.jsonl", *({"prompt": text} for text in WORDS))
    output = folder / "out.jsonl"
    run_job(GENERATE, model, source, output)
    whole = output.read_bytes()
    lines = data.draw(st.permutations(whole.splitlines(keepends=True)))
    done = data.draw(st.integers(0, len(lines)))
    torn = lines[done][: data.draw(st.integers(0, len(lines[done]) - 1))] if done < len(lines) else b""
    output.write_bytes(b"".join(lines[:done]) + torn)
    summary = run_job(GENERATE, model, source, output, batch_size=data.draw(st.integers(1, 9)))
    assert output.read_bytes() == whole
    assert summary[:3] == (len(WORDS), done, len(WORDS) - done)
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.job.json"]


@pytest.mark.parametrize("cache_dtype", [None, "float16"])
@pytest.mark.parametrize("weights", [None, "int8", "keep"])
def test_so_it_does_with_every_kind_of_weights_and_cache(tmp_path, weights, cache_dtype):
    model = numgpt.load("storyteller", weights=weights)
    source = write_lines(tmp_path / "in.jsonl", *({"prompt": f"Once {text}"} for text in WORDS))
    output = tmp_path / "out.jsonl"
    work = Job("generate", {"max_new_tokens": 5, "seed": 3, "temperature": 0.9, "cache_dtype": cache_dtype})
    run_job(work, model, source, output, batch_size=1)
    whole = output.read_bytes()
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    run_job(work, model, source, output, batch_size=4)
    assert output.read_bytes() == whole


def test_what_is_done_is_not_even_looked_at(model, source, output):
    run_job(GENERATE, model, source, output)
    kept = b"".join(output.read_bytes().splitlines(keepends=True)[1::2])
    output.write_bytes(kept)
    seen = []

    def spy(lines):
        for line in lines:
            seen.append(line.number)
            yield from jobs.work(GENERATE, model, [line], 1)

    run_job(GENERATE, model, source, output, workers=spy)
    assert seen == [1, 3, 5, 7]


def test_each_result_is_in_the_file_when_the_next_is_worked_at(model, source, output):
    sizes = []

    def spy(lines):
        for line in lines:
            sizes.append(output.read_bytes().count(b"\n"))
            yield from jobs.work(GENERATE, model, [line], 1)

    run_job(GENERATE, model, source, output, workers=spy)
    assert sizes == list(range(len(WORDS)))


def test_input_is_read_as_there_is_room_for_it(model, source, output, monkeypatch):
    asked, real = [], jobs.read_input

    def spy(*arguments):
        for line in real(*arguments):
            asked.append(line.number)
            yield line

    monkeypatch.setattr(jobs, "read_input", spy)
    most = []
    run_job(GENERATE, model, source, output, batch_size=2, progress=lambda done, *_: most.append(len(asked) - done))
    assert asked == list(range(1, 8))
    assert max(most) <= 4


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.thorough)])
def test_kill_9_loses_and_redoes_nothing(checkpoint, tmp_path, capsys, kills):
    source = write_lines(tmp_path / "in.jsonl", *({"prompt": f"{i} hi"} for i in range(30 + 30 * kills)))
    run = ("generate", "-m", checkpoint, "--input", source, "-n", "8", "-q", "--batch-size", "5", "--output")
    undisturbed, output = tmp_path / "undisturbed.jsonl", tmp_path / "out.jsonl"
    assert call(capsys, *run, undisturbed)[0] == 0
    reached = 0
    for _ in range(kills):
        with subprocess.Popen(command(*run, output)) as process:
            while process.poll() is None and count_lines(output) < reached + 20:
                time.sleep(0.001)
            process.kill()
        assert count_lines(output) >= reached
        reached = count_lines(output)
    assert call(capsys, *run, output)[0] == 0
    assert output.read_bytes() == undisturbed.read_bytes()


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ctrl_c_says_that_the_job_goes_on(checkpoint, tmp_path, output):
    source = write_lines(tmp_path / "in.jsonl", *({"prompt": f"{i} hi"} for i in range(2000)))
    run = command("generate", "-m", checkpoint, "--input", source, "--output", output, "-n", "20")
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not count_lines(output):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: what is done is kept, and the same command goes on" in err
    assert "Traceback" not in err
    assert 0 < count_lines(output) < 2000


def test_an_output_that_can_not_be_put_in_order_is_kept_and_is_next_time(model, source, output, monkeypatch):
    run_job(GENERATE, model, source, output)
    whole = output.read_bytes()
    shuffled = b"".join(sorted(whole.splitlines(keepends=True), key=lambda line: line[::-1]))
    assert shuffled != whole
    output.write_bytes(shuffled)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left on device: what is done is kept"):
            run_job(GENERATE, model, source, output)
    assert output.read_bytes() == shuffled
    Path(f"{output}.sorted").write_text("what a kill left")
    run_job(GENERATE, model, source, output)
    assert output.read_bytes() == whole
    assert not Path(f"{output}.sorted").exists()


# ---- another job's output


def refuse(job, model, source, output, match):
    before = output.read_bytes()
    with pytest.raises(OptionError, match=match):
        run_job(job, model, source, output)
    assert output.read_bytes() == before


def test_the_output_of_other_settings_input_or_model_is_refused(model, source, output):
    run_job(GENERATE, model, source, output)
    refuse(Job("generate", {"max_new_tokens": 6, "seed": 4}), model, source, output, "seed was 3 and is 4")
    refuse(
        Job("generate", {**GENERATE.settings, "top_k": 9}),
        model,
        source,
        output,
        "job: top_k was None and is 9",
    )
    refuse(Job("score", {}), model, source, output, "numgpt job was 'generate' and is 'score'")
    other = model._replace(params={**model.params, "wpe": -model.params["wpe"]})
    refuse(GENERATE, other, source, output, "model sha256 was")
    write_lines(source, {"prompt": "hi"})
    refuse(GENERATE, model, source, output, "input sha256 was")


def test_a_file_that_is_no_output_of_a_job_is_refused(model, source, output):
    write_lines(output, {"mine": 1})
    refuse(GENERATE, model, source, output, "no output of a job, as there is no out.jsonl.job.json")
    refuse(GENERATE, model, source, source, "no output of a job")
    assert {path.name for path in output.parent.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_an_output_that_was_changed_is_refused(model, source, output):
    run_job(GENERATE, model, source, output)
    whole = output.read_bytes()
    output.write_bytes(whole + whole[: whole.index(b"\n") + 1])
    refuse(GENERATE, model, source, output, "line 8 is line 1 of the input a second time")
    output.write_bytes(b"hello\n" + whole)
    refuse(GENERATE, model, source, output, "line 1 is no result of this job")
    output.write_bytes(whole)
    record = Path(f"{output}.job.json")
    for text in ("", record.read_text()[:-5], "[]\n"):
        record.write_text(text)
        refuse(GENERATE, model, source, output, "damaged")


def test_without_its_output_a_record_means_nothing(model, source, output):
    run_job(GENERATE, model, source, output)
    whole, record = output.read_bytes(), Path(f"{output}.job.json")
    for text in (record.read_text(), record.read_text()[:30], ""):
        output.unlink()
        record.write_text(text)
        run_job(Job("generate", {"max_new_tokens": 1, "seed": 0}), model, source, output)
        output.write_bytes(b"")
        run_job(GENERATE, model, source, output)
        assert output.read_bytes() == whole


def test_a_file_of_somebody_else_where_the_record_goes_is_kept(model, source, output):
    record = Path(f"{output}.job.json")
    record.write_text("a diary")
    with pytest.raises(OptionError, match="no record of a job: move it away"):
        run_job(GENERATE, model, source, output)
    assert record.read_text() == "a diary"


def test_two_processes_are_not_at_a_job_at_once(model, source, output):
    run_job(GENERATE, model, source, output)
    record = json.loads(Path(f"{output}.job.json").read_text())
    with Output(output, record), pytest.raises(OptionError, match="another process is at this job"):
        run_job(GENERATE, model, source, output)
    run_job(GENERATE, model, source, output)


# ---- bad input


BAD = [
    (b"not json\n", "not JSON (Expecting value: line 1 column 1 (char 0))"),
    (b'{"prompt": "hi"\n', "not JSON"),
    ([1], "[1] is not an object"),
    ({"id": 4}, 'no "prompt", expected {"prompt": "..."}'),
    ({"prompt": 3}, '"prompt" is 3, not a string'),
    ({"prompt": None}, '"prompt" is None, not a string'),
    ({"prompt": "x" * 33}, "the prompt has 33 tokens, but the context of this model is 32"),
    (b'{"prompt": "\xff"}\n', "byte 0xff at 12 is not UTF-8"),
    ({"prompt": "\ud800"}, "lone surrogate"),
    (b'{"prompt": "x", "id": NaN}\n', "not JSON"),
    (b'{"prompt": "x", "id": 1e999}\n', "not JSON"),
    (b"[" * 99999 + b"\n", "not JSON"),
    (b'{"prompt": "' + b"x" * 2000 + b'"}\n', "longer than"),
]


def test_bad_lines_are_told_with_their_numbers_and_stop_nothing(checkpoint, tmp_path, output, capsys, monkeypatch):
    monkeypatch.setattr("numgpt.apps.lines.LONGEST", 1000)
    bad = [line for line, _ in BAD if not (isinstance(line, bytes) and line.startswith(b"[["))]
    reasons = [reason for line, reason in BAD if line in bad]
    lines = [b"\xef\xbb\xbf", {"prompt": "hi", "more": 1}]
    for line in bad:
        lines += [line, b" \n", {"prompt": "hi"}]
    source = write_lines(tmp_path / "in.jsonl", *lines, b'{"prompt": "no end of line"}')
    run = ["generate", "-m", checkpoint, "--input", str(source), "--output", str(output), "-n", "3"]
    for attempt in range(2):
        code, out, err = call(capsys, *run, *["-q"] * attempt)
        assert (code, out) == (1, "")
        for i, reason in enumerate(reasons):
            [line] = [line for line in err.splitlines() if f"in.jsonl: line {2 + 3 * i}: " in line]
            assert reason in line
        assert err.splitlines()[-1] == f"numgpt: error: {source}: 12 of 26 lines have no result; see above"
        assert [result["line"] for result in read_results(output)] == [1, *range(4, 38, 3), 38]


def test_a_line_of_brackets_is_bad_too():
    with pytest.raises(NumgptError, match="not JSON"):
        parse(b"[" * 99999, "prompt")


def test_a_line_that_is_too_long_is_never_in_memory_whole(monkeypatch):
    monkeypatch.setattr("numgpt.apps.lines.LONGEST", 10)
    file = io.BytesIO(b"1234567890" * 5 + b"\n" + b"123456789\nlast")
    seen = []
    assert list(read_lines(file, seen.append)) == [(1, b"1234567890"), (2, b"123456789\n"), (3, b"last")]
    assert b"".join(seen) == file.getvalue()


def test_an_empty_input_is_an_empty_output(model, tmp_path, output):
    assert run_job(GENERATE, model, write_lines(tmp_path / "in.jsonl"), output) == Summary(0, 0, 0, 0, 0)
    assert output.read_bytes() == b""


@pytest.mark.parametrize(
    ("settings", "match"), [({"seed": -1}, "seed is -1"), ({"top_p": 7}, "top_p is 7"), ({"num_beams": 0}, "num_beams")]
)
def test_settings_are_checked_before_anything_is_written(model, source, output, settings, match):
    with pytest.raises(OptionError, match=match):
        run_job(Job("generate", {"max_new_tokens": 3, **settings}), model, source, output)
    with pytest.raises(OptionError, match="context is 99"):
        run_job(Job("score", {"context": 99}), model, source, output)
    with pytest.raises(OptionError, match="batch_size is 0"):
        run_job(GENERATE, model, source, output, batch_size=0)
    assert [path.name for path in output.parent.iterdir()] == ["in.jsonl"]


# ---- an output that can't be written


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nowhere/out.jsonl", "there is no folder"),
        ("", "not a file: a job reads back"),
        ("/dev/full", "not a file: a job reads back"),
        ("/dev/null", "not a file: a job reads back"),
    ],
)
def test_an_output_that_is_no_file_is_an_error(checkpoint, source, tmp_path, capsys, name, match):
    output = str(tmp_path / name)
    run = ["generate", "-m", checkpoint, "--input", source, "--output", output, "-n", "3"]
    assert match in fails(capsys, *run)


def test_an_input_that_is_no_file_is_an_error(model, output, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, match in (("pipe", "not a file: a job reads it anew"), ("none", "No such file or directory: .*none")):
        with pytest.raises((OptionError, FileNotFoundError), match=match):
            run_job(GENERATE, model, tmp_path / name, output)


def test_a_full_disk_tears_no_line_and_the_job_goes_on(checkpoint, source, output, capsys):
    run = ("generate", "-m", checkpoint, "--input", source, "--output", output, "-n", "9", "--batch-size", "1")
    limit = 900

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    found = subprocess.run(
        command(*run), preexec_fn=small_disk, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 1
    assert f"{output}: File too large: what is done is kept, and the same command goes on" in found.stderr
    results = read_results(output)
    assert 0 < len(results) < len(WORDS)
    assert output.read_bytes().endswith(b"}\n")
    assert call(capsys, *run)[0] == 0
    assert read_results(output)[: len(results)] == results
    assert len(read_results(output)) == len(WORDS)


# ---- progress, and the way to workers


def test_progress_begins_where_the_job_does_and_ends_at_its_end(model, source, output):
    run_job(GENERATE, model, source, output)
    output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:3]))
    seen = []
    run_job(GENERATE, model, source, output, progress=lambda *what: seen.append(what))
    assert [done for done, _, _ in seen] == [3, 4, 5, 6, 7]
    assert {lines for _, lines, _ in seen} == {7}
    assert seen[-1][2] == sum(len(result["ids"]) for result in read_results(output)[3:])


def test_lines_of_a_job_travel_to_workers_and_back():
    """Dask pickles them."""
    import pickle

    line = Line(3, {"a": 1}, "hi")
    assert pickle.loads(pickle.dumps((GENERATE, line))) == (GENERATE, line)

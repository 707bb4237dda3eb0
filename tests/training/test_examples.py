"""From a text to batches: what is held out, what counts, what is refused, and batches as a function of the step."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import llmcs
from support.runs import call

import numgpt
from numgpt.training.examples import batch, byte_tokenizer, read_examples, read_text, windows_of
from numgpt.training.settings import Settings


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


def test_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf1=2\n")
    assert read_text(file)[0] == "1=2\n"


def test_the_question_has_the_ids_that_it_has_when_it_is_asked(tmp_path):
    tokenizer = numgpt.load("storyteller").tokenizer
    whole, question = tokenizer.encode("the king"), tokenizer.encode("the ki")
    assert whole[: len(question)] != question  # so they must be parted before they are encoded
    texts = [(tmp_path, "the king\n" * 3), (tmp_path, "a kid\n")]
    training, _ = read_examples(texts, tokenizer, None, Settings(answers_after="ki"))
    assert training.ids[0, : len(question)].tolist() == question


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
            "--block-size is 513, expected at most 512, the context of storyteller",
        ),
        (b"x", ["--from", "storyteller", "--tokenizer", "gpt2"], "tokenizer is 'gpt2', expected nothing: storyteller"),
        (llmcs.tokens([1] * 9 + [257] * 99), [], "id 257 at 9, expected 0 to 256, the vocabulary of this model: name"),
        (llmcs.tokens([4096] * 99), ["--from", "storyteller"], "id 4096 at 0, expected 0 to 4095"),
        (
            llmcs.tokens([1] * 99),
            ["--answers-after", "="],
            "--answers-after is '=', expected nothing with a file",
        ),
        (llmcs.tokens([1] * 99), [], "its last tenth, held out, has 10 tokens, expected 65 or more"),
        (llmcs.tokens([1] * 99)[:-1], [], "99 ids, for which 197 bytes are there, expected 2 for each"),
        (llmcs.header(20240801, 7, 1) + b"xxxx", [], "it looks like llm.c's file of Llama 3's tokens"),
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

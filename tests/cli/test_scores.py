"""`numgpt score`: its figures, and the text in colours."""

import json
import re

import pytest
from support import llmcs
from support.checkpoints import hub_tensors
from support.cli import call, fails

import numgpt
from numgpt.cli import main as cli
from numgpt.measure.scoring import score, score_last_words

pytestmark = pytest.mark.usefixtures("storyteller_once")


def line(text):
    return json.dumps({"text": text})


@pytest.fixture(scope="module")
def storyteller():
    return numgpt.load("storyteller")


def unpainted(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


TEXT = "Once upon a time there was a king of 東京."


def figures(out):
    return dict(re.split(r"\s{2,}", row.strip()) for row in out.splitlines())


def test_the_command_prints_the_figures_and_what_they_count(capsys, storyteller):
    code, out, err = call(capsys, "score", TEXT)
    found = score(storyteller, TEXT)
    assert code == 0
    shown = figures(out)
    assert float(shown["perplexity"]) == pytest.approx(found.perplexity, rel=1e-5)
    assert float(shown["bits per byte"]) == pytest.approx(found.bits_per_byte, rel=1e-5)
    assert float(shown["perplexity per word"]) == pytest.approx(found.perplexity_per_word, rel=1e-5)
    assert shown["tokens scored"] == "18 of 19, in windows of 512, one every 256"
    assert shown["their text"] == "43 bytes, 10 words (parted by white space)"
    assert shown["before the text"] == "nothing, so its first token is not scored"
    assert err.startswith("numgpt: ")
    assert call(capsys, "score", TEXT, "-q")[2] == ""


def test_json_has_each_token_and_the_options_count(capsys, babbler):
    options = ["-m", babbler, "--context", "8", "--stride", "3", "--bos", "--dtype", "float64"]
    result = json.loads(call(capsys, "score", TEXT, *options, "--json")[1])
    found = score(numgpt.load(babbler, dtype="float64"), TEXT, context=8, stride=3, bos=True)
    assert result["ids"] == found.ids
    assert result["log_probs"] == pytest.approx(found.log_probs.tolist(), abs=1e-10)
    assert result["pieces"][-2:] == ["\\xac", "."]
    for name in "nats", "nats_per_token", "bits_per_token", "perplexity", "perplexity_by_recipe", "bits_per_byte":
        assert result[name] == pytest.approx(getattr(found, name), rel=1e-9)
    assert (result["tokens"], result["context"], result["stride"], result["bos"]) == (19, 8, 3, True)


def test_what_json_has_no_number_for_is_null(capsys):
    def refuse(name):
        raise AssertionError(name)

    rare = "".join(chr(0x4E00 + 997 * i % 20000) for i in range(80))  # one word of more than 700 nats
    result = json.loads(call(capsys, "score", rare, "--json")[1], parse_constant=refuse)
    assert result["log_probs"][0] is None
    assert result["perplexity_per_word"] is None


def test_the_text_may_come_from_a_file_or_from_standard_input(capsys, tmp_path, monkeypatch):
    class Stdin:
        buffer = (tmp_path / "text").open("w+b")

    (tmp_path / "text").write_bytes(TEXT.encode() + b"\r\n")
    monkeypatch.setattr("sys.stdin", Stdin)
    read = call(capsys, "score", "-")[1]
    Stdin.buffer.close()
    assert call(capsys, "score", "--file", str(tmp_path / "text"))[1] == read == call(capsys, "score", TEXT + "\r\n")[1]


def test_the_file_may_hold_ids(capsys, tmp_path, storyteller):
    ids = storyteller.tokenizer.encode(TEXT)
    path = llmcs.write(tmp_path / "val.bin", llmcs.tokens(ids))
    assert call(capsys, "score", "--file", str(path), "-q")[1] == call(capsys, "score", TEXT, "-q")[1]
    llmcs.write(path, llmcs.tokens([4095, *ids, 4096]))
    assert "ids[20] is 4096, expected 0 to 4095" in fails(capsys, "score", "--file", str(path))
    llmcs.write(path, llmcs.tokens(ids)[:-2])
    assert "19 ids, for which 36 bytes are there" in fails(capsys, "score", "--file", str(path))


def test_ids_need_no_tokenizer(capsys, tmp_path):
    model = llmcs.write(tmp_path / "m.bin", llmcs.model(hub_tensors(n_inner=24)))
    path = llmcs.write(tmp_path / "val.bin", llmcs.tokens([3, 1, 4, 1, 5]))
    code, out, _ = call(capsys, "score", "--file", str(path), "-m", str(model), "--color", "always")
    assert code == 0
    shown = figures(out)
    assert (shown["their text"], shown["bits per byte"]) == ("not known without a tokenizer", "-")
    assert float(shown["perplexity"]) == pytest.approx(score(numgpt.load(model), [3, 1, 4, 1, 5]).perplexity, rel=1e-5)
    facts = json.loads(call(capsys, "score", "--file", str(path), "-m", str(model), "--json")[1])
    assert (facts["ids"], facts["pieces"], facts["words"]) == ([3, 1, 4, 1, 5], [], None)
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    assert "has no tokenizer" in fails(capsys, "score", "--file", str(tmp_path / "a.txt"), "-m", str(model))


def test_special_tokens_count_only_where_they_are_allowed(capsys):
    plain = json.loads(call(capsys, "score", "a<|endoftext|>", "--json")[1])["ids"]
    special = json.loads(call(capsys, "score", "a<|endoftext|>", "--json", "--allow-special")[1])["ids"]
    assert special == [64, 4095]
    assert len(plain) > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "too short to score: tokens: 1"),
        (["a b", "--stride", "0"], "stride is 0"),
        (["--file", "latin-1.txt"], "latin-1.txt: byte 0xe9 at 1 is not UTF-8: convert it"),
        (["--lambada", "latin-1.txt"], "line 1: "),
        (["--lambada", "latin-1.txt", "--bos"], "leave out --context, --stride, --bos, --allow-special"),
        (["--lambada", "latin-1.txt", "--stride", "0"], "leave out --context"),
    ],
)
def test_errors_are_told_in_one_line(capsys, tmp_path, monkeypatch, babbler, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin-1.txt").write_bytes(b"a\xe9")
    assert message in fails(capsys, "score", "-m", babbler, *arguments)


@pytest.mark.parametrize("flag", ["--file", "--lambada"])
def test_a_file_that_is_not_there_is_named(capsys, flag):
    assert fails(capsys, "score", flag, "missing.txt").startswith("numgpt: error: missing.txt: No such file")


@pytest.mark.parametrize("arguments", [[], ["a", "--file", "b"], ["--lambada", "a", "--file", "b"], ["a", "--color"]])
def test_one_source_of_text_is_asked_for(arguments):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["score", *arguments])


def test_the_text_is_coloured_on_a_terminal_unless_told_otherwise(capsys, monkeypatch, babbler):
    monkeypatch.delenv("NO_COLOR", raising=False)
    command = ["score", TEXT, "-m", babbler]
    plain = call(capsys, *command)[1]
    assert "\x1b" not in plain
    always = call(capsys, *command, "--color", "always")[1]
    assert unpainted(always).startswith(TEXT + "\n\n")
    assert plain.splitlines() == [row for row in unpainted(always).splitlines()[2:] if "colours" not in row]

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert call(capsys, *command)[1] == always
    assert call(capsys, *command, "--color", "never")[1] == plain
    assert "\x1b" not in call(capsys, *command, "--json")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert call(capsys, *command)[1] == plain
    assert call(capsys, *command, "--color", "always")[1] == always


def test_last_words_of_a_file(capsys, tmp_path):
    file = tmp_path / "words.jsonl"
    file.write_text(line("Once upon a time") + "\n" + line("Once upon a king") + "\n")
    result = json.loads(call(capsys, "score", "--lambada", str(file), "--json")[1])
    expected = score_last_words(numgpt.load("storyteller"), file.read_text().splitlines())
    assert (result["texts"], result["correct"], result["accuracy"]) == (2, 1, 0.5)
    assert result["perplexity_per_last_word"] == pytest.approx(expected.perplexity, rel=1e-6)
    shown = figures(call(capsys, "score", "--lambada", str(file))[1])
    assert shown["correct"] == "1 of 2 last words: each token the likeliest; no stop-word filter"
    assert float(shown["accuracy"]) == 0.5

"""`numgpt tokenize`: ids and pieces."""

import json

from support.cli import call, pipe_in


def test_special_tokens_count_only_where_they_are_allowed(capsys):
    texts = [call(capsys, "tokenize", "<|endoftext|>", *flag, "--json")[1] for flag in ([], ["--allow-special"])]
    ordinary, special = [json.loads(text)["ids"] for text in texts]
    assert special == [4095]
    assert len(ordinary) > 1
    assert 4095 not in ordinary


def test_tokenize_shows_ids_and_pieces(capsys):
    out = call(capsys, "tokenize", "Hello world\u00e9", "-m", "gpt2")[1]
    assert out == "  15496  'Hello'\n    995  ' world'\n   2634  '\u00e9'\n"


def test_tokenize_shows_the_bytes_of_half_a_character(capsys):
    out = call(capsys, "tokenize", "\U0001f642")[1]
    assert out.splitlines()[0].split() == ["172", r"b'\xf0'"]
    assert json.loads(call(capsys, "tokenize", "\U0001f642", "--json")[1])["pieces"][0] == r"\xf0"


def test_tokenize_keeps_all_of_standard_input_but_the_ends_of_lines_are_plain(capsys, monkeypatch):
    pipe_in(monkeypatch, b" a\r\n\tb\r \n\n")
    out = call(capsys, "tokenize", "-", "--json")[1]
    assert "".join(json.loads(out)["pieces"]) == " a\n\tb\r \n\n"

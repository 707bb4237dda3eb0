"""The server over its own socket: what it answers, and what it refuses."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import requests
from support.dumps import thorough
from support.serving import served, small

import numgpt
from numgpt.cli import main as cli
from numgpt.serve.app import Server

MODEL = small()
TOKENIZER = MODEL.tokenizer
PROMPT = "Once upon a time there"


@pytest.fixture(scope="module")
def client():
    with served(MODEL, batch_size=4, queue=200) as found:
        yield found


def joined(events, index=0):
    """Return the whole choice that the parts of a stream make."""
    parts = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    whole = {"text": "".join(part["text"] for part in parts), "finish_reason": parts[-1]["finish_reason"]}
    assert all(part["finish_reason"] is None for part in parts[:-1])
    if parts[0]["logprobs"] is not None:
        names = parts[0]["logprobs"]
        whole["logprobs"] = {name: [x for part in parts for x in part["logprobs"][name]] for name in names}
    return whole


# ---- completions


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 40, "temperature": 0.8}, {"min_p": 0.05}])
def test_the_text_is_that_of_generate_with_the_same_seed(client, options):
    expected = numgpt.complete(MODEL, PROMPT, max_new_tokens=20, seed=5, **options)
    answer = client.complete(prompt=PROMPT, max_tokens=20, seed=5, **options)
    assert answer["choices"] == [{"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] == {"prompt_tokens": 6, "completion_tokens": 20, "total_tokens": 26}
    assert (answer["object"], answer["model"], answer["seed"]) == ("text_completion", "small", 5)
    events = client.events(prompt=PROMPT, max_tokens=20, seed=5, **options)
    assert joined(events) == {"text": expected, "finish_reason": "length"}
    assert len({event["id"] for event in events}) == 1


def test_a_text_keeps_to_a_form_and_leaves_out_what_is_banned(client):
    options = {"regex": "(?s)[^a]{3}[b-y]{2,20}", "ban": ["e", "th"], "seed": 4}
    answer = client.complete(prompt=PROMPT, max_tokens=50, n=3, **options)
    for number, choice in enumerate(answer["choices"]):
        assert choice["text"] == numgpt.complete(MODEL, PROMPT, max_new_tokens=50, stream=number, **options)
        assert choice["finish_reason"] == "stop"
        assert re.fullmatch("(?s)[^a]{3}[b-y]{2,20}", choice["text"])
        assert not re.search("e|th", choice["text"])


@pytest.mark.parametrize("options", [{"watermark": "secret"}, {"green_list": 15485863}])
def test_a_server_may_mark_all_that_it_writes(options):
    with served(MODEL, options=options) as marking:
        text = marking.complete(prompt=PROMPT, max_tokens=50, seed=5)["choices"][0]["text"]
        greedy = marking.post(prompt=PROMPT, max_tokens=5, temperature=0)
    assert text == numgpt.complete(MODEL, PROMPT, max_new_tokens=50, seed=5, **options)
    assert text != numgpt.complete(MODEL, PROMPT, max_new_tokens=50, seed=5)
    if "watermark" in options:
        assert (greedy.status_code, greedy.json()["error"]["param"]) == (400, "temperature")
    with pytest.raises(numgpt.OptionError, match="expected"):
        Server(MODEL, "small", dict.fromkeys(options, ""))


def test_the_command_line_writes_the_same(client, tmp_path, capsys):
    with served(numgpt.load("storyteller"), name="storyteller") as story:
        text = story.complete(prompt=PROMPT, max_tokens=12, seed=7, temperature=0.8, top_k=40)["choices"][0]["text"]
    assert cli.main(["generate", PROMPT, "-n", "12", "--seed", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == text


def test_several_prompts_and_several_texts_of_each_stand_in_order(client):
    prompts = [PROMPT, "The king", "A"]
    expected = numgpt.generate_batch(
        [TOKENIZER.encode(text) for text in prompts], MODEL.params, MODEL.config,
        max_new_tokens=7, seed=3, num_return_sequences=2,
    )  # fmt: skip
    options = {"max_tokens": 7, "seed": 3, "n": 2, "return_token_ids": True}
    for given in prompts, [TOKENIZER.encode(text) for text in prompts]:
        choices = client.complete(prompt=given, **options)["choices"]
        assert [choice["index"] for choice in choices] == list(range(6))
        assert [choice["token_ids"] for choice in choices] == expected
        assert [choice["prompt_token_ids"] for choice in choices[::2]] == [TOKENIZER.encode(text) for text in prompts]
    events = client.events(prompt=prompts, **options)
    assert [joined(events, i)["text"] for i in range(6)] == [choice["text"] for choice in choices]


def test_echo_and_log_probabilities(client):
    ids = TOKENIZER.encode(PROMPT)
    answer = client.complete(prompt=PROMPT, max_tokens=4, seed=1, echo=True, logprobs=2, return_token_ids=True)
    (choice,) = answer["choices"]
    assert choice["text"].startswith(PROMPT)
    found, every = choice["logprobs"], ids + choice["token_ids"]
    assert found["tokens"] == [TOKENIZER.decode([i]) for i in every]
    assert "".join(found["tokens"]) == choice["text"]
    assert [choice["text"].index(word, at) for word, at in zip(found["tokens"], found["text_offset"], strict=True)] == (
        found["text_offset"]
    )
    expected = numgpt.score(MODEL, every).log_probs
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    np.testing.assert_allclose(found["token_logprobs"][1:], expected[1:], rtol=0, atol=1e-5)
    for token, log_p, top, top_ids in zip(
        found["tokens"][1:], found["token_logprobs"][1:], found["top_logprobs"][1:], found["top_token_ids"][1:],
        strict=True,
    ):  # fmt: skip
        assert top[token] == log_p
        assert len(top) == len(top_ids) in (2, 3)
        assert list(top.values())[:2] == sorted(top.values(), reverse=True)[:2]
    streamed = joined(client.events(prompt=PROMPT, max_tokens=4, seed=1, echo=True, logprobs=2, return_token_ids=True))
    assert streamed["text"] == choice["text"]
    for name in "tokens", "text_offset", "top_token_ids":
        assert streamed["logprobs"][name] == found[name]
    np.testing.assert_allclose(streamed["logprobs"]["token_logprobs"][1:], expected[1:], rtol=0, atol=1e-5)
    (bare,) = client.complete(prompt=PROMPT, max_tokens=4, seed=1, logprobs=0)["choices"]
    assert bare["logprobs"]["text_offset"][0] == len(PROMPT)
    np.testing.assert_allclose(bare["logprobs"]["token_logprobs"], expected[len(ids) :], rtol=0, atol=1e-5)
    assert [list(top) for top in bare["logprobs"]["top_logprobs"]] == [[word] for word in bare["logprobs"]["tokens"]]


def test_no_new_tokens(client):
    (choice,) = client.complete(prompt=PROMPT, max_tokens=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    (choice,) = client.complete(prompt=PROMPT, max_tokens=0, echo=True)["choices"]
    assert choice["text"] == PROMPT
    (choice,) = client.complete(prompt=[PROMPT], max_tokens=0, echo=True, logprobs=1)["choices"]
    assert len(choice["logprobs"]["tokens"]) == 6
    events = client.events(prompt=PROMPT, max_tokens=0, echo=True, stream_options={"include_usage": True})
    assert joined(events) == {"text": PROMPT, "finish_reason": "length"}
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 0


def test_a_text_ends_before_a_stop_string_and_at_the_end_of_text_which_has_its_log_probability(client):
    whole = numgpt.complete(MODEL, PROMPT, max_new_tokens=30, seed=5)
    stop = whole[20:23]
    expected = whole[: whole.index(stop)]
    for given in stop, [stop, "§§"]:
        (choice,) = client.complete(prompt=PROMPT, max_tokens=30, seed=5, stop=given)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (expected, "stop")
        assert joined(client.events(prompt=PROMPT, max_tokens=30, seed=5, stop=given))["text"] == expected
    (choice,) = client.complete(prompt=PROMPT, max_tokens=9, logit_bias={"4095": 100}, logprobs=1)["choices"]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]["tokens"]) == ("", "stop", ["<|endoftext|>"])


def test_at_the_end_of_the_context_the_reason_is_length(client):
    ids = TOKENIZER.encode(PROMPT) * 10
    (choice,) = client.complete(prompt=ids, max_tokens=60, logit_bias={"4095": -100}, return_token_ids=True)["choices"]
    assert choice["finish_reason"] == "length"
    assert len(choice["token_ids"]) == MODEL.config.n_ctx - 60 + 1


def test_characters_of_several_tokens_come_whole(client):
    (i,) = (i for i in range(256) if TOKENIZER.pieces([i]) == [b"\xc3"])
    (j,) = (i for i in range(256) if TOKENIZER.pieces([i]) == [b"\xa9"])
    bias = {str(k): -100 for k in range(256) if k not in (i, j)}
    options = {"max_tokens": 40, "seed": 2, "logprobs": 0, "logit_bias": {**bias, str(i): 50, str(j): 50}}
    events = client.events(prompt="caf", **options)
    found = joined(events)
    assert set(found["text"]) <= {"é", "\ufffd"}
    assert "é" in found["text"]
    assert set(found["logprobs"]["tokens"]) == {"bytes:\\xc3", "bytes:\\xa9"}


def test_special_tokens_in_a_text_are_text_unless_they_are_allowed(client):
    def count(**options):
        return client.complete(prompt="<|endoftext|>", max_tokens=1, **options)["usage"]["prompt_tokens"]

    assert count() > 1
    assert count(allow_special=True) == 1
    assert client.complete(prompt="", max_tokens=1)["usage"]["prompt_tokens"] == 1


# ---- the other addresses


def test_what_the_server_tells_of_itself(client):
    (about,) = client.get("/v1/models").json()["data"]
    assert (about["id"], about["object"], about["max_model_len"]) == ("small", "model", 64)
    assert client.get("/v1/models/small").json() == about
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/tokenizer_info").json()["eos_token"] == "<|endoftext|>"
    assert "<h1>small</h1>" in client.get("/").text


def test_tokenize_and_detokenize(client):
    answer = client.post("/tokenize", prompt=PROMPT, return_token_strs=True).json()
    assert answer["tokens"] == TOKENIZER.encode(PROMPT)
    assert (answer["count"], answer["max_model_len"]) == (6, 64)
    assert "".join(answer["token_strs"]) == PROMPT
    assert client.post("/detokenize", tokens=answer["tokens"]).json() == {"prompt": PROMPT}
    assert client.post("/tokenize", prompt="<|endoftext|>", add_special_tokens=False).json()["tokens"] == [4095]
    assert client.post("/tokenize", prompt="<|endoftext|>", allow_special=False).json()["count"] > 1


def test_when_it_ends_nobody_waits_for_a_page_that_is_being_made(monkeypatch):
    go = threading.Event()
    monkeypatch.setattr("numgpt.serve.app.explain", lambda *arguments: go.wait(30))
    with served(MODEL) as own:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(own.post("/explain", prompt=PROMPT).status_code))
        asking.start()
        while own.server.explaining is None:
            time.sleep(0.002)
        assert own.post("/explain", prompt=PROMPT).status_code == 503
    asking.join(20)
    go.set()
    assert answers == [503]


def test_explain_makes_the_page(client):
    page = client.post("/explain", prompt=PROMPT)
    assert page.status_code == 200
    assert "How GPT-2 reads this text" in page.text
    assert client.post("/explain", prompt=[PROMPT, PROMPT]).status_code == 400


# ---- what is refused

HUGE = "9" * 5000
WRONG = [  # fields, and what the error is about; each is 400 unless it says otherwise
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": True}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [[1], "a", None]}, "prompt"),
    ({"prompt": [[1, [2]]]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [4096]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"prompt": "a " * 200}, "prompt"),
    ({"prompt": "a" * 1_000_000}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    *(({"prompt": "a", "max_tokens": value}, "max_tokens") for value in (-1, 65, 1.5, "5", True, [5], 10**30)),
    *(({"prompt": "a", "temperature": value}, "temperature") for value in (-0.1, "1", True, 10**400, [1], {})),
    *(({"prompt": "a", "top_p": value}, "top_p") for value in (0, 1.01, "1", False)),
    *(({"prompt": "a", "top_k": value}, "top_k") for value in (-1, 1.5, True)),
    *(({"prompt": "a", "min_p": value}, "min_p") for value in (-0.1, 2)),
    *(({"prompt": "a", "repetition_penalty": value}, "repetition_penalty") for value in (0, -1)),
    *(({"prompt": "a", name: 2.5}, name) for name in ("presence_penalty", "frequency_penalty")),
    *(({"prompt": "a", "n": value}, "n") for value in (0, 129, -1, 1.0, True)),
    ({"prompt": ["a"] * 100, "n": 2}, "n"),
    *(({"prompt": "a", "stop": value}, "stop") for value in ("", [""], ["a"] * 17, 5, [5], "a" * 257, "\ud800")),
    *(({"prompt": "a", "ban": value}, "ban") for value in ("", [""], ["a"] * 17, 5, [5], "a" * 257, "\ud800")),
    *(({"prompt": "a", "regex": value}, "regex") for value in ("", 5, ["a"], "(", "a(?=b)", "a" * 257, "\ud800")),
    *(({"prompt": "a", "seed": value}, "seed") for value in (-1, 2**64, 1.5, "1")),
    *(({"prompt": "a", "echo": value}, "echo") for value in (1, "true")),
    *(({"prompt": "a", "logprobs": value}, "logprobs") for value in (-1, 21, True, "1")),
    *(
        ({"prompt": "a", "logit_bias": value}, "logit_bias")
        for value in ([], {"a": 1}, {"1": "a"}, {"1": 101}, {"4096": 1}, {"-1": 1}, {"1": True}, {"٣": 1})
    ),
    ({"prompt": "a", "stream": 1}, "stream"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt": "a", "stream": True, "stream_options": {"other": True}}, "other"),
    ({"prompt": "a", "stream": True, "stream_options": {"include_usage": 1}}, "include_usage"),
    *(({"prompt": "a", name: 1}, name) for name in ("best_of", "suffix", "tools", "functions", "messages", "user")),
    ({"prompt": "a", "max_new_tokens": 5}, "max_new_tokens"),
    ({"prompt": "a", "file": "/etc/passwd"}, "file"),
    ({"prompt": "a", "model": 5}, "model"),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_told_by_its_name(client, body, field):
    answer = client.post(**body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, field, "invalid_request_error"), error
    assert field in error["message"]


def test_a_name_that_others_use_is_told_with_ours(client):
    for theirs, ours in {"max_new_tokens": "max_tokens", "temprature": "temperature"}.items():
        assert f"did you mean {ours}?" in client.post(**{"prompt": "a", theirs: 1}).json()["error"]["message"]


def test_no_more_tokens_are_made_for_a_request_than_is_reasonable(client, monkeypatch):
    monkeypatch.setattr("numgpt.serve.fields.MOST_TOKENS", 100)
    answer = client.post(prompt=["a"] * 10, n=2, max_tokens=6)
    assert answer.status_code == 400
    assert "max_tokens is 6, expected at most 5 for 20 texts" in answer.json()["error"]["message"]


def test_null_is_as_if_not_given(client):
    fields = ["temperature", "top_p", "n", "stop", "seed", "echo", "logprobs", "logit_bias", "stream"]
    fields += ["best_of", "suffix", "user"]
    assert client.post(prompt="a", max_tokens=1, **dict.fromkeys(fields)).status_code == 200


def test_another_model_is_not_found(client):
    for path in "/v1/completions", "/tokenize", "/explain":
        answer = client.post(path, prompt="a", model="gpt-4")
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
    assert client.post(prompt="a", model="small", max_tokens=1).status_code == 200


BODIES = [
    b"",
    b"{",
    b"[1]",
    b'"prompt"',
    b"null",
    b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "temperature": Infinity}',
    b'{"prompt": "a", "temperature": 1e999}',
    b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    b'{"prompt": "\xff"}',
    '{"prompt": "a"}'.encode("utf-16"),
    b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"prompt": "a"} {}',
]


@pytest.mark.parametrize("data", BODIES, ids=lambda data: repr(data[:40]))
def test_what_is_no_object_of_json_is_refused(client, data):
    answer = client.post(data=data)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_controls_that_leave_no_token_are_the_fault_of_the_request(client):
    answer = client.post(prompt="a", max_tokens=3, temperature=1e-300)
    assert answer.status_code in (200, 400)


HEADERS = [
    ({"Host": "evil.example"}, 403),
    ({"Host": "evil.example:80"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Host": "localhost:1@evil.example"}, 403),
    ({"Host": ""}, 403),
    ({"Host": "localhost"}, 200),
    ({"Host": "LOCALHOST:8000"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "https://localhost"}, 403),
    ({"Origin": "http://localhost.evil.example"}, 403),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": ""}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Type": "multipart/form-data; boundary=application/json"}, 415),
    ({"Content-Type": "application/json; charset=utf-16"}, 415),
    ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ({"Content-Encoding": "gzip"}, 415),
]


@pytest.mark.parametrize(("headers", "status"), HEADERS, ids=str)
def test_who_may_ask_is_told_by_headers(client, headers, status):
    assert client.post(prompt="a", max_tokens=1, headers=headers).status_code == status


def test_a_page_of_ours_may_ask(client):
    answer = client.post(prompt="a", max_tokens=1, headers={"Origin": client.url})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


ADDRESSES = [
    ("GET", "/v1/completions", 405),
    ("DELETE", "/v1/models", 405),
    ("PUT", "/tokenize", 405),
    ("GET", "/..%2f..%2fetc/passwd", 404),
    ("GET", "/../../etc/passwd", 404),
    ("GET", "/page.js", 404),
    ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
    ("GET", "/health/", 404),
    ("GET", "//evil.example/health", 404),
    ("POST", "/v1/chat/completions", 415),
    ("POST", "/v1/embeddings", 415),
    ("OPTIONS", "/v1/completions", 405),
    ("CONNECT", "/v1/completions", 405),
]


@pytest.mark.parametrize(("method", "path", "status"), ADDRESSES)
def test_other_addresses_and_methods_are_refused(client, method, path, status):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    first = client.raw(head.encode()).split(b"\r\n")[0]
    assert first.split()[1] == str(status).encode()


def test_chat_is_refused_by_name_and_the_query_is_not_read(client):
    answer = client.post("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert client.post("/v1/completions?max_tokens=5", prompt="a").status_code == 400


def test_headers_that_try_to_be_more_are_no_request(client):
    for head in (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n",
        b"GET /health HTTP/1.1\r\nHost : localhost\r\n",
        b"GET /health\r\nX HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        assert client.raw(head + b"Connection: close\r\n\r\n").split(b" ")[1] == b"400", head[:60]
    assert client.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").split(b" ")[1] == b"400"
    answer = client.get("/v1/models/a%0d%0aSet-Cookie:%20b=1")
    assert (answer.status_code, "set-cookie" in answer.headers) == (404, False)


def test_a_head_of_a_megabyte_is_not_kept(client):
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000
    with suppress(ConnectionResetError, BrokenPipeError):  # which may come before the answer
        assert client.raw(head).split(b" ")[1] == b"400"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert client.raw(head + b"Content-Length: 1000000000\r\n\r\n").split(b" ")[1] == b"413"
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    assert client.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17).split(b" ")[1] == b"413"
    assert client.post(data=json.dumps({"prompt": "a" * (1 << 20)}).encode()).status_code == 413


def test_a_body_or_a_head_that_does_not_come_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr("numgpt.serve.guard.SECONDS_FOR_A_BODY", 0.1)
    monkeypatch.setattr("numgpt.serve.running.SECONDS_FOR_HEADERS", 0.1)
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n"
    assert client.raw(head + b'\r\n{"prompt": ').split(b" ")[1] == b"408"
    assert client.raw(head, seconds=5) == b""
    assert client.raw(b"", seconds=5) == b""
    assert client.get("/health").status_code == 200


# ---- keys, other origins, other machines


def test_with_a_key_all_but_the_page_and_the_health_need_it():
    with served(MODEL, api_key="secret-1") as client:
        for headers in (
            {},
            {"Authorization": "Bearer secret"},
            {"Authorization": "secret-1"},
            {"Authorization": "Basic secret-1"},
        ):
            answer = client.post(prompt="a", max_tokens=1, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models").status_code == client.get("/nothing").status_code == 401
        assert client.get("/").status_code == client.get("/health").status_code == 200
        headers = {"Authorization": "Bearer secret-1"}
        assert client.post(prompt="a", max_tokens=1, headers=headers).status_code == 200
        assert client.post(prompt="a", headers={"Authorization": "Bearer secret-1\u00e9".encode()}).status_code == 401


def test_an_origin_and_a_host_that_are_allowed_may_ask():
    with served(MODEL, hosts=["box.local"], origins=["https://example.org"]) as client:
        headers = {"Host": "box.local:8000", "Origin": "https://example.org"}
        answer = client.post(prompt="a", max_tokens=1, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        asked = b"OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        preflight = client.raw(asked + b"Origin: https://example.org\r\nAccess-Control-Request-Method: POST\r\n\r\n")
        assert preflight.split(b" ")[1] == b"204"
        assert b"access-control-allow-headers: authorization, content-type" in preflight
        assert client.raw(asked + b"Origin: https://example.com\r\n\r\n").split(b" ")[1] == b"403"


# ---- load, and the end


def test_a_full_queue_says_when_to_come_again(client, monkeypatch):
    monkeypatch.setattr(client.server.engine, "queue", 0)
    answer = client.post(prompt="a", max_tokens=1)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["type"] == "overloaded_error"


def test_a_client_that_hangs_up_leaves_at_once(client):
    engine = client.server.engine
    for body in {"stream": True}, {"stream": False}:
        head = json.dumps({"prompt": [[5]] * 100, "max_tokens": 64, **body}).encode()
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(head) + head
            )
            end = time.monotonic() + 20
            while not engine.running and time.monotonic() < end:
                time.sleep(0.002)
        end = time.monotonic() + 20
        while (engine.running or engine.waiting) and time.monotonic() < end:
            time.sleep(0.002)
        assert not engine.running
        assert not engine.waiting


def test_the_log_has_no_texts(client, caplog):
    with caplog.at_level("INFO", "numgpt.serve"):
        client.complete(prompt="a secret of mine", max_tokens=3)
        client.get("/a%0asecret")
        client.post(prompt="a secret", wrong="secret")
        while len(found := [record.getMessage() for record in caplog.records]) < 3:  # each after its answer
            time.sleep(0.002)
    assert not any("secret" in line for line in found)
    assert found[0].startswith("POST /v1/completions 200 ")
    assert "texts=1 prompt_tokens=" in found[0]


@pytest.mark.parametrize("signals", [[signal.SIGTERM], *thorough([signal.SIGINT], [signal.SIGINT, signal.SIGINT])])
def test_a_signal_lets_what_is_running_end_and_the_exit_code_is_0(signals):
    command = [sys.executable, "-m", "numgpt", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = json.loads(process.stdout.readline())["url"]
        body = {"prompt": "Once upon a time", "max_tokens": 300, "stream": True, "logit_bias": {"4095": -100}}
        with requests.post(f"{url}/v1/completions", json=body, stream=True, timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            for sent in signals:
                process.send_signal(sent)
            with nullcontext() if len(signals) == 1 else suppress(requests.exceptions.ChunkedEncodingError):
                rest = [line for line in lines if line]
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    if len(signals) == 1:
        assert rest[-1] == b"data: [DONE]"
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--api-key", ""], "--api-key is empty"),
        (["--batch-size", "0"], "--batch-size is 0, expected 1 or more"),
        (["--port", "99999"], "--port is 99999, expected 0 to 65535"),
        (["--host", "256.1.1.1", "--insecure"], "256.1.1.1"),
    ],
)
def test_wrong_options_end_with_a_word(flags, words, capsys):
    assert cli.main(["serve", *flags]) == 1
    assert words in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("starlette", "uvicorn", "numgpt.serve"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve"]) == 1
    assert 'pip install "numgpt[serve]"' in capsys.readouterr().err


def test_a_prompt_that_ends_inside_a_word_is_healed(client):
    expected = numgpt.complete(MODEL, "Once upon a ti", heal=True, max_new_tokens=9, seed=4)
    options = {"prompt": "Once upon a ti", "heal": True, "max_tokens": 9, "seed": 4}
    assert client.complete(**options)["choices"][0]["text"] == expected
    assert joined(client.events(**options))["text"] == expected
    assert client.complete(**options, echo=True)["choices"][0]["text"] == "Once upon a ti" + expected


def test_guidance_is_that_of_the_library(client):
    options = {"guidance_scale": 1.7, "negative_prompt": "The sea"}
    expected = numgpt.complete(MODEL, PROMPT, max_new_tokens=9, seed=4, **options)
    asked = {"prompt": ["A", PROMPT], "max_tokens": 9, "seed": 4, **options}
    alone = client.complete(**{**asked, "prompt": PROMPT})["choices"][0]["text"]
    assert alone == expected
    assert client.complete(**asked)["choices"][1]["text"] == numgpt.complete(
        MODEL, PROMPT, max_new_tokens=9, seed=4, stream=1, **options
    )
    assert client.post(prompt="a", negative_prompt="b").json()["error"]["param"] == "negative_prompt"
    assert client.post(prompt="a", guidance_scale=1000).json()["error"]["param"] == "guidance_scale"

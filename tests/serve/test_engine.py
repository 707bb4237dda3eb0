"""The running batch: each text is what it is alone, whatever joins and leaves beside it."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import small

import numgpt
from numgpt import fast
from numgpt.decoding import batch
from numgpt.decoding.rules import check_rules
from numgpt.errors import OptionError
from numgpt.measure.scoring import log_probs
from numgpt.serve import engine
from numgpt.serve.engine import Busy, Engine, Text

MODEL = small()
WAIT = 60


class Listener:
    """Keeps what an engine tells, and lets a test wait for it."""

    def __init__(self):
        self.news, self.changed = [], threading.Condition()

    def tell(self, all_news):
        with self.changed:
            self.news += all_news
            self.changed.notify_all()

    def of(self, text):
        return [news for other, news in self.news if other is text]

    def wait_for(self, holds):
        with self.changed:
            assert self.changed.wait_for(holds, WAIT)

    def wait_for_end(self, *texts):
        self.wait_for(lambda: all(any(news.is_last for news in self.of(text)) for text in texts))


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def start(listener):
    """Start engines that are stopped when the test ends."""
    engines = []

    def make(**limits):
        engines.append(Engine(MODEL, listener.tell, **limits))
        return engines[-1]

    yield make
    for one in engines:
        one.stop()


def text_of(ids, number=0, n_likeliest=None, scores_prompt=False, **options):
    rules = check_rules(MODEL.config, tokenizer=MODEL.tokenizer, **options)
    return Text(ids, rules, number, n_likeliest, scores_prompt)


def new_ids(listener, text):
    """Return the ids that were told, without an end-of-text, and why they ended."""
    news = listener.of(text)
    ids = [one.token.id for one in news if one.token]
    return [i for i in ids if i not in text.rules.stop_ids], news[-1].finish_reason


CONTROLS = [{"temperature": 0}, {}, {"top_k": 9, "temperature": 0.7}, {"top_p": 0.8}, {"repetition_penalty": 1.4}]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_each_text_is_the_one_that_is_made_alone_whatever_runs_beside_it(data):
    asked = data.draw(
        st.lists(
            st.tuples(
                st.lists(st.integers(0, 4094), min_size=1, max_size=40),
                st.integers(1, 30),
                st.sampled_from(CONTROLS),
                st.integers(0, 2**64 - 1),
                st.integers(0, 5),
                st.floats(0, 0.01),
            ),
            min_size=1,
            max_size=8,
        )
    )
    listener = Listener()
    part, size = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    running = Engine(MODEL, listener.tell, batch_size=size, part=part)
    texts = []
    for ids, n, controls, seed, number, pause in asked:
        texts.append(text_of(ids, number, max_new_tokens=n, seed=seed, **controls))
        running.submit([texts[-1]])
        time.sleep(pause)
    listener.wait_for_end(*texts)
    running.stop()
    for text in texts:
        assert new_ids(listener, text) == alone(text)


def alone(text):
    """Return what the batch of one makes of a text: its ids, and why it ends."""
    given = [(text.number, text.ids.copy(), text.rules)]
    (done,) = batch.run(given, MODEL.params, MODEL.config, choose_next=batch.choose_surely)
    return done.ids, done.finish_reason


def test_it_is_the_text_of_generate(listener, start):
    prompt = MODEL.tokenizer.encode("Once upon a time there was a king who")
    for seed in range(3):
        text = text_of(prompt, 2, max_new_tokens=20, seed=seed, top_k=40)
        start(part=5).submit([text])
        listener.wait_for_end(text)
        options = {"max_new_tokens": 20, "seed": seed, "stream": 2, "top_k": 40}
        assert new_ids(listener, text)[0] == list(numgpt.generate(prompt, MODEL.params, MODEL.config, **options))


def test_where_rounding_may_decide_the_choice_is_made_aside_and_the_others_go_on(listener, start, monkeypatch):
    asked, go = threading.Event(), threading.Event()

    def in_doubt(logits, r, config):
        return batch.choose_one(logits, r, None, config), r.number == 1 and len(r.text) == 5

    def exactly(r, params, config):
        asked.set()
        assert go.wait(WAIT)
        return 7

    monkeypatch.setattr(engine, "choose_with_doubt", in_doubt)
    monkeypatch.setattr(engine, "choose_exactly", exactly)
    first, second = text_of([1, 2, 3], 1, max_new_tokens=6, seed=1), text_of([1, 2, 3], 2, max_new_tokens=30, seed=1)
    start().submit([first, second])
    assert asked.wait(WAIT)
    listener.wait_for_end(second)
    assert not any(news.is_last for news in listener.of(first))
    go.set()
    listener.wait_for_end(first)
    assert new_ids(listener, first)[0][2] == 7


def test_the_tokens_of_a_prompt_are_scored_whatever_the_parts(listener, start):
    ids = MODEL.tokenizer.encode("Once upon a time there was a king who had a golden ball")
    logits = numgpt.forward(ids, MODEL.params, MODEL.config).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for part in 1, 4, 100:
        scored = text_of(ids, 0, 3, True, max_new_tokens=1, seed=0)
        beside = [text_of([5, 6], 1, max_new_tokens=20), text_of(ids, 1, 2, True, max_new_tokens=0)]
        start(part=part).submit([scored, *beside])
        listener.wait_for_end(scored, *beside)
        for text in scored, beside[1]:
            tokens = [token for news in listener.of(text) for token in news.prompt]
            assert [token.id for token in tokens] == ids
            assert (tokens[0].log_prob, tokens[0].likeliest) == (None, ())
            for t, token in enumerate(tokens[1:]):
                assert token.log_prob == pytest.approx(expected[t, token.id], abs=1e-5)
                best = np.argsort(-expected[t], kind="stable")[: text.n_likeliest]
                assert [i for i, _ in token.likeliest] == best.tolist()
                assert [p for _, p in token.likeliest] == pytest.approx(expected[t, best].tolist(), abs=1e-5)
        (new,) = [news.token for news in listener.of(scored) if news.token]
        assert new.log_prob == pytest.approx(expected[-1, new.id], abs=1e-5)
        assert listener.of(beside[1])[-1].finish_reason == "length"


def test_log_probabilities_are_those_of_the_whole_vocabulary_and_the_likeliest_no_padding():
    log_p, best = log_probs(np.array([1.0, 1.0, 3.0, 9.0], np.float32), 0, n=5, n_tokens=3)
    assert log_p == pytest.approx(1 - np.log(np.exp([1.0, 1, 3, 9]).sum()))
    assert [i for i, _ in best] == [2, 0, 1]  # of those that tie, the lower id first
    assert log_probs(np.zeros(4, np.float32), 1, n=0)[1] == ()


def test_no_more_run_at_once_than_asked_for_and_a_full_queue_takes_no_more(listener, start, monkeypatch):
    go, seen, forward_batch = threading.Event(), [], fast.forward_batch

    def slow(parts, *arguments, **options):
        seen.append(len(parts))
        assert go.wait(WAIT)
        return forward_batch(parts, *arguments, **options)

    monkeypatch.setattr(engine.fast, "forward_batch", slow)
    running = start(batch_size=2, queue=3)
    texts = [text_of([k], k, max_new_tokens=3, seed=k) for k in range(5)]
    running.submit(texts)
    while not seen:
        time.sleep(0.001)
    with pytest.raises(Busy, match="busy"):
        running.submit([texts[0]])
    go.set()
    listener.wait_for_end(*texts)
    assert max(seen) == 2
    assert [new_ids(listener, text) for text in texts] == [alone(text) for text in texts]


def test_who_goes_away_leaves_whether_it_waits_or_runs(listener, start):
    running = start(batch_size=1)
    first, second, third = (text_of([k], k, max_new_tokens=60, seed=k) for k in (1, 2, 3))
    running.submit([first, second, third])
    listener.wait_for(lambda: listener.of(first))
    running.forget([first, second])
    listener.wait_for_end(third)
    assert not any(news.is_last for news in listener.of(first))
    assert not listener.of(second)
    assert first.running is third.running is None  # nor are their caches held
    assert (running.running, list(running.waiting)) == ([], [])


def test_an_error_ends_the_text_that_made_it_and_no_other(listener, start):
    banned = text_of([1], max_new_tokens=5, bad_words=[[i] for i in range(4096)], min_new_tokens=1)
    other = text_of([1], 1, max_new_tokens=20, seed=1)
    start().submit([banned, other])
    listener.wait_for_end(banned, other)
    assert isinstance(listener.of(banned)[-1].error, OptionError)
    assert new_ids(listener, other) == alone(other)


def test_a_fault_in_a_pass_ends_its_texts_and_not_the_engine(listener, start, monkeypatch):
    def fails(*arguments, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine.fast, "forward_batch", fails)
        running, text = start(), text_of([1], max_new_tokens=5)
        running.submit([text])
        listener.wait_for_end(text)
    assert isinstance(listener.of(text)[-1].error, MemoryError)
    again = text_of([1], max_new_tokens=5, seed=3)
    running.submit([again])
    listener.wait_for_end(again)
    assert new_ids(listener, again) == alone(again)


def test_when_it_drains_what_runs_goes_on_and_what_waits_is_turned_away(listener, start):
    running = start(batch_size=1)
    first, second = text_of([1], 1, max_new_tokens=40, seed=1), text_of([2], 2, max_new_tokens=5, seed=2)
    running.submit([first, second])
    listener.wait_for(lambda: listener.of(first))
    running.drain()
    listener.wait_for_end(first, second)
    assert isinstance(listener.of(second)[-1].error, Busy)
    assert new_ids(listener, first) == alone(first)
    with pytest.raises(Busy, match="shutting down"):
        running.submit([second])
    running._thread.join(WAIT)
    assert not running._thread.is_alive()


def test_when_it_stops_all_are_told(listener, start):
    running, text = start(), text_of([1], max_new_tokens=60, seed=1, stop_ids=[])
    running.submit([text])
    listener.wait_for(lambda: listener.of(text))
    running.stop()
    listener.wait_for_end(text)
    running._thread.join(WAIT)
    assert not running._thread.is_alive()

"""The data of a page, unpacked, against the trace in float64, the tokenizer and score."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.pages import exact, integers, numbers, scaled, small, steps, weights

import numgpt
from numgpt.errors import CheckpointError
from numgpt.pages import gather as module
from numgpt.pages.candidates import places_below
from numgpt.pages.gather import choose_targets, gather, in_steps, merge_steps, pieces_of
from numgpt.tokenizer import Tokenizer, merge
from numgpt.trace import letters

IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
T, H, L = len(IDS), 3, 2
MODEL = small(np.float32)


@pytest.fixture(scope="module")
def data():
    """What a page holds of a small model without a tokenizer."""
    return gather(IDS, MODEL)


@pytest.fixture(scope="module")
def storyteller():
    return numgpt.load("storyteller")


@pytest.fixture(scope="module")
def traced():
    return exact(IDS, MODEL)


def assert_three_digits(found, expected):
    unit = 10.0 ** (np.floor(np.log10(np.maximum(np.abs(expected), 1e-48))) - 2)
    assert (np.abs(found - expected) <= 0.5 * unit * (1 + 1e-6)).all()


# ---- numbers


def test_each_tensor_is_there_in_three_digits_of_its_first_numbers(data, traced):
    tensors = data["numbers"]["tensors"]
    parameters = {"wte": MODEL.params["wte"][IDS].astype(float), "wpe": MODEL.params["wpe"][:T].astype(float)}
    shown = {name: x for name, x in traced.items() if not name.endswith(("scores", "weights", "logits"))}
    assert set(tensors) == {*shown, *parameters}
    for name, x in {**shown, **parameters}.items():
        n = 3 if x.ndim == 3 else 6
        found = numbers(tensors[name], *x.shape[:-1], min(n, x.shape[-1]))
        assert_three_digits(found, x[..., :n])


def test_each_vector_has_its_length(data, traced):
    lengths = data["numbers"]["lengths"]
    assert set(lengths) == {name for name in data["numbers"]["tensors"] if name[0] != "w" and letters(name)[0] == "T"}
    for name, text in lengths.items():
        assert_three_digits(numbers(text), np.linalg.norm(traced[name], axis=-1))


def test_features_fewer_than_are_shown_are_all_there():
    model = small(n_embd=4, n_head=2, n_inner=5)
    tensors, traced = gather(IDS, model)["numbers"]["tensors"], exact(IDS, model)
    assert_three_digits(numbers(tensors["ln_f"], T, 4), traced["ln_f"])
    assert_three_digits(numbers(tensors["h.1.mlp.pre"], T, 5), traced["h.1.mlp.pre"])
    assert_three_digits(numbers(tensors["h.1.attn.z"], 2, T, 2), traced["h.1.attn.z"])


# ---- attention


def test_of_a_short_text_all_weights_are_kept(data, traced):
    assert data["attention"]["kept"] == T
    for layer in range(L):
        expected = traced[f"h.{layer}.attn.weights"]
        found = weights(data["attention"]["weights"][layer], H, T * (T + 1) // 2)
        rows = [np.concatenate([w[t, : t + 1] for t in range(T)]) for w in expected]
        np.testing.assert_allclose(found, rows, rtol=0.5e-2, atol=0.5e-6)


@pytest.mark.parametrize("fit", [0, 5 * L * H * T])  # 4 weights a row are always kept
def test_of_a_long_text_the_largest_weights_of_each_row_are_kept(monkeypatch, traced, fit):
    monkeypatch.setattr(module, "WEIGHTS", fit)
    attention = gather(IDS, MODEL)["attention"]
    kept = attention["kept"]
    assert kept == (5 if fit else 4)
    for layer in range(L):
        rows = traced[f"h.{layer}.attn.weights"].reshape(-1, T)
        places = np.array(integers(attention["places"][layer], 3)).reshape(-1, kept)
        found = weights(attention["weights"][layer], H * T, kept)
        for row, at, shown in zip(rows, places, found, strict=True):
            assert sorted(set(at.tolist())) == at.tolist()
            np.testing.assert_allclose(np.sort(row[at]), np.sort(row)[-kept:], rtol=1e-12)
            np.testing.assert_allclose(shown, row[at], rtol=0.5e-2, atol=0.5e-6)


def test_the_small_pictures_show_the_weights_in_63_shades(data, traced):
    assert data["attention"]["side"] == T
    rows, columns = np.tril_indices(T)
    for layer in range(L):
        shades = np.array(integers(data["attention"]["cells"][layer], 1)).reshape(H, -1) / 63
        expected = traced[f"h.{layer}.attn.weights"][:, rows, columns]
        np.testing.assert_allclose(shades, expected, rtol=0, atol=0.5 / 63 + 1e-9)


def test_each_head_says_where_it_looks(data):
    heads = data["attention"]["heads"]
    assert [len(row) for row in heads] == [H] * L
    kinds = {"previous", "first", "self", "copy", "induction", "even", "kind", "first_value"}
    assert {frozenset(head) for row in heads for head in row} == {frozenset(kinds)}


# ---- the next token, the lens, the parts, the surprise


def test_the_candidates_come_out_as_the_logits_of_the_trace(data, traced):
    n = data["next"]["n"]
    ids = np.array(integers(data["next"]["ids"], 3)).reshape(T, n)
    assert np.sort(ids).tolist() == [list(range(90))] * T
    found = scaled(data["next"]["logits"], 5, T, n)
    # What is not shown one by one is computed in the dtype of the model.
    np.testing.assert_allclose(found, np.take_along_axis(traced["logits"], ids, axis=1), rtol=0, atol=1e-5)


def test_what_is_below_the_candidates_comes_out_within_half_a_step(monkeypatch):
    monkeypatch.setattr(module, "CANDIDATES", 0)  # so 100 of each position are kept one by one,
    monkeypatch.setattr(module, "BELOW", 0)  # and from place 500 on they are thinned out
    model = small(n_vocab=2000)
    following, logits = gather(IDS, model)["next"], exact(IDS, model, "logits")["logits"]
    monotone = -np.sort(-logits)
    counts = steps(following["counts"])
    assert following["n"] == 100
    assert 100 + sum(counts) == 2000
    assert max(counts) > 1
    for t, (step, text) in enumerate(zip(following["step"], following["steps"], strict=True)):
        at = scaled(following["logits"], 5, T, following["n"])[t, -1]
        low = at - np.cumsum(np.sqrt(counts) * step * steps(text))
        expected = monotone[t, following["n"] - 1 + np.cumsum(counts)]
        assert (np.abs(low - expected) <= 0.5 * step * np.sqrt(max(counts)) + 1e-6).all()
        assert 0 < step <= (monotone[t, 99] - monotone[t, 499]) / 400 / 10  # far less than neighbours are apart


def off_in_half_steps(start, tails, counts):
    """Return how far each number comes out from where it was, in halves of its step."""
    step, found = in_steps(np.array([start], dtype=float), np.array([tails]), np.array(counts, dtype=int))
    assert found.min() >= 0
    assert found.max() < 2**18
    length = np.sqrt(counts) * step[0]
    return np.abs(start - np.cumsum(length * found[0]) - tails) / (length / 2), length


FALLS = st.lists(st.tuples(st.integers(0, 10**6).map(lambda x: x / 1000), st.integers(1, 4000)), min_size=1)


@given(st.integers(-100, 100), FALLS)
@example(0, [(0.001, 1), (1000.0, 2)])  # a cliff behind two neighbours
def test_falling_numbers_come_out_within_half_a_step(start, falls):
    tails = start - np.cumsum([fall for fall, _ in falls])
    off, _ = off_in_half_steps(start, tails, sorted(count for _, count in falls))
    assert (off <= 1 + 1e-6).all()


@given(st.integers(-100, 100), st.integers(1, 60), st.integers(100, 5000), st.integers(0, 99))
def test_the_places_of_a_vocabulary_come_out_within_the_longest_half_step_before(start, n, n_tokens, seed):
    places = places_below(n, n_tokens, fine=20)
    counts = np.diff(places, prepend=n - 1)
    falls = np.random.default_rng(seed).exponential(size=len(places)) ** 3
    off, length = off_in_half_steps(start, start - np.cumsum(falls), counts)
    assert (off * length <= np.maximum.accumulate(length) * (1 + 1e-6)).all()


def test_numbers_that_do_not_fall_are_no_steps():
    step, found = in_steps(np.array([2.0, 2.0]), np.full((2, 3), 2.0), np.array([1, 1, 4]))
    assert (step > 0).all()
    assert found.tolist() == [[0, 0, 0]] * 2
    assert in_steps(np.array([2.0]), np.zeros((1, 0)), np.zeros(0, dtype=int))[1].shape == (1, 0)


@pytest.mark.parametrize(("room", "n"), [(4 * T * 13, 4), (4 * T * 13 - 1, 2)])  # 13: wte, wpe, 2 x (3 + 2), ln_f.b
def test_the_parts_sum_to_the_logits_of_what_came_and_of_the_likeliest(monkeypatch, traced, room, n):
    monkeypatch.setattr(module, "PARTS", room)
    parts = gather(IDS, MODEL)["parts"]
    for t, targets in enumerate(parts["targets"]):
        came = IDS[t + 1 : t + 2].tolist()
        likeliest = [i for i in np.argsort(-traced["logits"][t]).tolist() if i not in came]
        assert targets == [*came, *likeliest][:n]
        np.testing.assert_allclose(parts["logits"][t], traced["logits"][t, targets], rtol=0, atol=1e-7)
    added = scaled(parts["added"], 6, T, n, len(parts["names"]))
    np.testing.assert_allclose(added.sum(axis=-1), parts["logits"], rtol=0, atol=1e-6)


def test_the_token_that_came_is_shown_once_though_it_is_among_the_likeliest():
    likeliest = np.array([[7, 8, 9], [8, 7, 9], [7, 8, 9]])
    assert choose_targets(likeliest, np.array([1, 8, 8]), n=3).tolist() == [[8, 7, 9], [8, 7, 9], [7, 8, 9]]


def test_ranks_and_log_probabilities_are_those_of_score(data):
    scored = numgpt.score(MODEL, IDS)
    assert data["surprise"]["ranks"] == [None, *scored.ranks[1:].tolist()]
    assert data["surprise"]["log_probs"][1:] == pytest.approx(scored.log_probs[1:].tolist(), abs=1e-7)
    assert data["surprise"]["perplexity"] == scored.perplexity
    last = np.array(integers(data["lens"]["rank"], 3)).reshape(-1, T)[-1, :-1]
    assert last.tolist() == scored.ranks[1:].tolist()
    p_last = numbers(data["lens"]["p_next"], 2 * L + 1, T)[-1, :-1]
    np.testing.assert_allclose(p_last, np.exp(scored.log_probs[1:]), rtol=0.6e-2)


# ---- tokens and their merges


@pytest.mark.parametrize("text", ["Once upon a time there was a king, and the king had a beautiful daughter", "東京 é"])
def test_the_merges_of_a_token_are_those_of_bpe_with_a_list_that_grows(storyteller, text):
    tokenizer = storyteller.tokenizer
    for i, shown in pieces_of(np.array(tokenizer.encode(text)), tokenizer).items():
        [piece] = tokenizer.pieces([i])
        assert bytes.fromhex(shown["bytes"]) == piece
        assert merge(piece, tokenizer.ranks) == [piece]
        ranks = [step["rank"] for step in shown["steps"]]
        assert len(ranks) == len(piece) - 1
        assert ranks == sorted(ranks)
        for step in shown["steps"]:
            known = {pair: rank for pair, rank in tokenizer.ranks.items() if rank < step["rank"]}
            pieces = merge(piece, known)
            assert step["pieces"] == [x.decode("utf-8", "backslashreplace") for x in pieces]
            assert tokenizer.ranks[pieces[step["at"]], pieces[step["at"] + 1]] == step["rank"]


def test_a_pair_that_comes_twice_is_merged_from_the_left():
    assert merge_steps(b"abab", Tokenizer([(b"a", b"b"), (b"ab", b"ab")])) == [
        {"pieces": ["a", "b", "a", "b"], "at": 0, "rank": 0},
        {"pieces": ["ab", "a", "b"], "at": 1, "rank": 0},
        {"pieces": ["ab", "ab"], "at": 0, "rank": 1},
    ]


def test_a_special_token_is_not_merged_and_a_part_of_a_character_is_written_as_bytes(storyteller):
    special = pieces_of(np.array([4095]), storyteller.tokenizer)[4095]
    assert special == {"bytes": b"<|endoftext|>".hex(" "), "special": True, "steps": []}
    data = gather(np.array(storyteller.tokenizer.encode("東")), storyteller)
    assert "".join(data["texts"][i] for i in data["ids"]) == "\\xe6\\x9d\\xb1"


def test_each_token_that_a_page_names_has_its_text(storyteller):
    data = gather(np.array(storyteller.tokenizer.encode("Once upon a time")), storyteller)
    named = {*data["ids"], *integers(data["next"]["ids"], 3), *integers(data["lens"]["best"], 3)}
    named |= {i for row in data["parts"]["targets"] for i in row}
    assert set(data["texts"]) == named
    assert [data["texts"][i] for i in data["ids"]] == ["O", "nce", " upon", " a", " time"]


def test_without_a_tokenizer_there_are_ids_alone(data):
    assert data["ids"] == IDS.tolist()
    assert (data["texts"], data["pieces"]) == ({}, {})


def test_ids_beyond_the_tokenizer_have_no_text():
    model = small(n_vocab=300, n_tokens=256, tokenizer=Tokenizer([]))
    data = gather(np.array([65, 299, 66]), model)
    assert set(data["pieces"]) == {65, 66}
    assert data["texts"][65] == "A"
    assert 299 not in data["texts"]
    assert 299 in data["parts"]["targets"][0]
    assert max(integers(data["next"]["ids"], 3)) < 256


# ---- JSON


def refuse(name):
    raise AssertionError(name)


@pytest.mark.parametrize("ids", [[7], [7, 7], IDS])
def test_what_a_page_holds_is_json_without_nan_or_infinity(ids):
    for model in MODEL, small(n_vocab=300, n_head=1), small(n_layer=1, n_tokens=3):
        json.loads(json.dumps(gather(np.array(ids), model)), parse_constant=refuse)


def test_one_token_has_nothing_before_it():
    data = gather(np.array([7]), MODEL)
    assert data["surprise"] == {"ranks": [None], "log_probs": [None], "perplexity": None}
    assert weights(data["attention"]["weights"][0], H).tolist() == [1] * H
    assert all(head["kind"] == "" and head["first_value"] is None for row in data["attention"]["heads"] for head in row)
    assert len(data["parts"]["targets"]) == 1


def with_leaf(model, name, x):
    return model._replace(params={**model.params, name: x})


@pytest.mark.parametrize("ids", [[7], IDS])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_model_that_computes_what_is_not_finite_is_refused(ids, wrong):
    untied = small(np.float32, tie_word_embeddings=False)
    damaged = [with_leaf(MODEL, "wpe", np.full_like(MODEL.params["wpe"], wrong))]
    head = untied.params["lm_head"].copy()
    head[9] = wrong
    damaged.append(with_leaf(untied, "lm_head", head))
    for model in damaged:
        with np.errstate(all="ignore"), pytest.raises(CheckpointError, match="not finite"):
            gather(np.array(ids), model)


@pytest.mark.parametrize("ids", [[7], IDS])
@pytest.mark.parametrize("n_vocab", [20, 90, 300])
def test_logits_that_overflow_float32_are_refused(ids, n_vocab):
    model = small(np.float32, n_vocab=n_vocab, tie_word_embeddings=False)
    large = with_leaf(model, "lm_head", model.params["lm_head"] * np.float32(1e38))
    large.params["ln_f"] = {name: 10 * x for name, x in model.params["ln_f"].items()}
    with np.errstate(all="ignore"), pytest.raises(CheckpointError, match="against overflow, run in float64"):
        gather(np.array(ids), large)
    gather(np.array(ids), small(n_vocab=n_vocab))


def test_the_cosines_of_positions_are_those_of_their_vectors():
    model = small(n_ctx=70)
    model.params["wpe"][3] = 0
    found = module.positions_data(model.params["wpe"])
    places = found["places"]
    assert (len(places), places[0], places[-1]) == (64, 0, 69)
    cosines = iter(numbers(found["cosines"]))
    for i, row in enumerate(places):
        for column in places[: i + 1]:
            x, y = model.params["wpe"][row], model.params["wpe"][column]
            lengths = np.linalg.norm(x) * np.linalg.norm(y)
            assert next(cosines) == pytest.approx(x @ y / lengths if lengths else 0, rel=5.1e-3, abs=1e-45)

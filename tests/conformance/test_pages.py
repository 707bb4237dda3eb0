"""The page of numgpt explain in a browser without a network: what it shows is held against the trace and the samplers.

Chromium shows it, and axe-core says whether everybody can use it: AXE_CORE is the path of axe.min.js, and without it
node_modules/axe-core/axe.min.js of the checkout is taken.
"""

import itertools
import random
import re
import xml.etree.ElementTree as ElementTree
from decimal import Decimal
from functools import cache

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys
from support.browser import Browser

import numgpt
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.model import Model
from numgpt.ops import softmax
from numgpt.pages import verification
from numgpt.params import map_leaves, random_params
from numgpt.sampling import OfLogits, min_p, sample, temperature, top_k, top_p
from numgpt.tokenizer import Tokenizer
from numgpt.trace import TRACE_SHAPES, collect, layer_and_base, letters
from numgpt.verify.dump import Dump
from numgpt.verify.report import compare

PARTS = ["tokens", "way", "attention", "lens", "next", "surprise", "cache"]
SLIDERS = ["temperature", "top_k", "top_p", "min_p"]
FILLED = [
    "about", "one-token", "bytes", "stations", "what-head", "what-it-does", "looks-at", "row", "what-lens", "depths",
    "target", "sum", "what-next", "kept", "candidates", "drawn", "what-surprise", "key", "one-surprise", "what-cache",
    "work",
]  # fmt: skip
STATIONS = [
    "embed", "ln_1", "q, k, v", "attend", "attn_out", "resid_mid", "ln_2", "mlp.pre", "mlp.post", "mlp_out",
    "resid_post", "ln_f", "logits",
]  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"

KING = "Once upon a time there was a king, and the king had a"
ODD_TEXTS = {
    "a script": "<script>alert(1)</script>",
    "the end of a script": "</script><img src=x onerror=alert(1)><!-- <script> ]]> &amp; {{data}}",
    "emoji": "Hi 👩🏽‍🚀👨‍👩‍👧‍👦 🏳️‍🌈🇩🇪❤️ 🤗",
    "right to left": "שלום עולם \u202eabc\u202c مرحبا بالعالم \u2067x\u2069\u061c",
    "control characters": "a\x00b\x01\x07\x08\x1b[31m\x7f\x80\x9f\ufeff\u200b\u2028 z\x0b\x0c\x1f",
    "one token": " upon",
    "lines and tabs": "one\n\ttwo\r\n\n\nthree \t  four\n",
}
OF_GPT2, WHOLE = " in the vocabulary of GPT-2", " in one token"
IDS = {
    "no tokenizer": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3],
    "48 layers": [3, 1, 4, 1, 5, 9, 2, 6],
    "1,024 tokens": np.random.default_rng(0).integers(0, 90, 1024).tolist(),
    "even odds": np.random.default_rng(1).integers(0, 50257, 100).tolist(),
    "odds": np.random.default_rng(2).integers(0, 50257, 128).tolist(),
    "uneven odds": np.random.default_rng(3).integers(0, 50257, 100).tolist(),
}


def small(n_vocab, n_embd, n_head, n_layer, n_ctx=128, scale=1.0, tokenizer=None):
    """Return a model of random weights, in float32."""
    config = numgpt.Config(n_vocab, n_ctx, n_embd, n_head, n_layer, eos_token_id=None)
    params = map_leaves(lambda path, x: x * np.float32(scale if x.ndim == 2 else 1), random_params(config))
    return Model(config, params, tokenizer)


@cache
def model_of(case):
    """Return the model of a case, as it makes the page."""
    makers = {
        "no tokenizer": lambda: small(90, 24, 3, 3, scale=10),
        "48 layers": lambda: small(90, 50, 25, 48),
        "1,024 tokens": lambda: small(90, 16, 2, 2, n_ctx=1024, scale=10),
        "even odds": lambda: small(50257, 32, 4, 2),
        "odds": lambda: small(50257, 32, 4, 2, scale=5),
        "uneven odds": lambda: small(50257, 32, 4, 2, scale=15),
        "float64": lambda: numgpt.load("storyteller", dtype="float64"),
    }
    if case.endswith(OF_GPT2):
        return small(50257, 8, 2, 1, scale=10, tokenizer=gpt2())
    if case.endswith(WHOLE):
        return small(257, 8, 2, 1, scale=10, tokenizer=Tokenizer([], special_tokens={odd_text(case): 256}))
    return makers.get(case, lambda: numgpt.load("storyteller"))()


def odd_text(case):
    return ODD_TEXTS[case.removesuffix(OF_GPT2).removesuffix(WHOLE)]


def text_of(case):
    """Return the text of a case."""
    if case.endswith(WHOLE):
        return f"{odd_text(case)} or {odd_text(case)}"
    if case.removesuffix(OF_GPT2) in ODD_TEXTS:
        return odd_text(case)
    return "Once upon a time" if case == "short" else KING


@cache
def ids_of(case):
    """Return the ids of a case."""
    return IDS[case] if case in IDS else model_of(case).tokenizer.encode(text_of(case), allow_special=True)


@cache
def page_of(case):
    """Return the page of a case. The name of a model may be hostile too."""
    name = ODD_TEXTS["the end of a script"] if case.endswith(WHOLE) else case
    return numgpt.explain(model_of(case), ids_of(case), name)


@cache
def exact(case, names=None):
    """Return the trace in float64, of all tensors or of those named."""
    model = model_of(case)
    params = map_leaves(lambda path, x: x.astype(np.float64), model.params)
    return collect(ids_of(case), Model(model.config, params, None), names)


HIDDEN = "\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"


def written(piece):
    """Return how a page writes the bytes of a token."""
    text = re.sub(
        f"[{HIDDEN}\x0b-\r]",
        lambda found: f"\\u{ord(found[0]):04x}",
        piece.decode("utf-8", "backslashreplace"),
    )
    return text.translate({ord(" "): "␣", ord("\n"): "⏎", ord("\t"): "⇥"})


def name_of(case, i):
    """Return how a page writes a token."""
    tokenizer = model_of(case).tokenizer
    return written(tokenizer.pieces([i])[0]) if tokenizer else f"id {i}"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


CHOOSE = """
function pick(key, value) {
  const select = document.getElementById(`choose-${key}`);
  select.value = value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}
function station(name) {
  [...document.getElementById("stations").children].find((one) => one.textContent === name).click();
}
function set(id, value) {
  document.getElementById(id).value = value;
  document.getElementById(id).dispatchEvent(new Event("input", { bubbles: true }));
}
"""
EMPTY = """
const [parts, filled] = arguments, bare = (one) => !one || !one.textContent.trim();
const empty = [...parts, ...filled].filter((id) => bare(document.getElementById(id)));
for (const id of parts) {
  const part = document.getElementById(id);
  if (part && part.getBoundingClientRect().height < 100) empty.push(`${id} has no height`);
  if (part && [...part.querySelectorAll("figure, table, button")].every(bare)) empty.push(`${id} shows nothing`);
}
for (const figure of document.querySelectorAll("figure")) {
  if (!figure.querySelector("svg > *")) empty.push(`figure ${figure.dataset.picture}`);
}
for (const code of document.querySelectorAll("pre")) if (bare(code)) empty.push(`code ${code.dataset.code}`);
return empty;
"""


def assert_filled(browser):
    assert browser.run(EMPTY, PARTS, FILLED) == []


def text_of_parts(browser):
    """Return what stands in each part, for people and for a reader of screens."""
    return browser.run(
        """return Object.fromEntries([...document.querySelectorAll("section")].map((part) => [part.id,
          [part.innerText, ...[...part.querySelectorAll("svg")].map((one) => one.outerHTML)].join("\\n")]));"""
    )


@pytest.fixture
def king(browser):
    """The page of a text of 17 tokens."""
    browser.open(page_of("king").html)
    return browser


def test_a_page_from_the_disk_asks_nobody_for_anything_and_says_nothing_on_the_console(browser):
    browser.messages()
    address = browser.open(page_of("king").html)
    browser.open_tables()
    browser.run(CHOOSE + "pick('token', 3); pick('layer', 2); pick('head', 5); station('logits'); set('top_k', 40);")
    assert browser.requests() == [address]
    browser.run("document.querySelector('[data-picture=\"head\"] .tools button').click();")
    saved = browser.folder / "head.svg"
    browser.wait_until(lambda: saved.exists() and saved.read_text(encoding="utf-8").endswith("</svg>"))
    assert {url.partition(":")[0] for url in browser.requests()} <= {"blob", "data"}
    assert saved.read_text(encoding="utf-8") == browser.run("return pictureAsSvg('head');")
    assert browser.messages() == []


def test_each_part_is_there_with_something_in_it(king):
    assert_filled(king)
    assert king.run("return [...document.querySelectorAll('main > section')].map((part) => part.id);") == PARTS
    kinds = king.run("return arguments[0].map((id) => document.getElementById(id).type);", SLIDERS)
    assert kinds == ["range"] * 4


def click(selector):
    return f"document.querySelector('{selector}').click();"


PRESSED = "return [...document.querySelectorAll('[data-token][aria-pressed=true]')].map((one) => one.dataset.token);"
IN_THE_ROW = "document.querySelector('#tokens [aria-pressed=\"true\"]').focus();"
WAYS = {
    "a click on it": (3, click('#tokens [data-token="3"]'), None),
    "a click on it in the text": (5, click('#surprise [data-token="5"]'), None),
    "the select": (9, CHOOSE + "pick('token', 9);", None),
    "an arrow to the right": (10, IN_THE_ROW, Keys.ARROW_RIGHT),
    "an arrow to the left": (9, IN_THE_ROW, Keys.ARROW_LEFT),
    "home": (0, IN_THE_ROW, Keys.HOME),
    "end": (16, IN_THE_ROW, Keys.END),
    "the button to the token before": (15, click('[data-step="token -1"]'), None),
    "the button to the token after": (16, click('[data-step="token 1"]'), None),
}


def test_a_token_that_is_chosen_is_shown_in_all_parts(king):
    before = text_of_parts(king)
    for way, (t, script, key) in WAYS.items():
        king.run(script)
        if key:
            king.press(key)
        name, after = name_of("king", ids_of("king")[t]), text_of_parts(king)
        unchanged = [part for part in PARTS if part != "cache" and after[part] == before[part]]
        assert not unchanged, way
        numbers = king.run("return document.querySelector('[data-picture=numbers] svg').ariaLabel;")
        for text in [numbers, *map(king.text, ["#one-token", "#looks-at", "#what-next"])]:
            assert re.search(rf"\b[Tt]oken {t}\b", text), (way, text)
        places = ["#one-token", "#looks-at", "#what-lens", "#what-next", "#one-surprise"]
        for text in [numbers, *map(king.text, places)]:
            assert name in text, (way, text)
        assert king.run(PRESSED) == [str(t)] * 2, way
        assert king.run("return document.getElementById('choose-token').value;") == str(t), way
        before = after


PICTURES = """
const figures = [...document.querySelectorAll("figure")];
return Object.fromEntries(figures.map((one) => [one.dataset.picture, one.querySelector("svg").outerHTML]));
"""


@pytest.mark.parametrize(
    ("key", "expected", "pictures"),
    [
        ("layer", "Layer 4, head 0", {"way", "numbers", "heads", "head", "parts"}),
        ("head", "Layer 0, head 4", {"numbers", "heads", "head", "parts"}),
    ],
)
def test_a_layer_or_a_head_that_is_chosen_is_shown_in_all_parts(king, key, expected, pictures):
    king.run(CHOOSE + "station('q, k, v'); pick('layer', 0); pick('head', 0);")
    before, texts = king.run(PICTURES), king.texts("#what-it-does, #row")
    king.run(CHOOSE + "pick(arguments[0], 4);", key)
    after = king.run(PICTURES)
    assert {name for name in after if after[name] != before[name]} == pictures
    assert [x != y for x, y in zip(texts, king.texts("#what-it-does, #row"), strict=True)] == [True, True]
    assert king.text("#what-head") == expected
    assert king.text('[data-picture="head"] figcaption').startswith(expected)


READ = """
const found = [];
for (const [t, layer, head, place] of arguments[0]) {
  pick("token", t); pick("layer", layer); pick("head", head); station(place);
  for (const one of document.querySelectorAll("[data-tensor], [data-parameter]"))
    found.push([one.dataset.tensor || one.dataset.parameter, one.dataset.index, one.textContent]);
}
return found;
"""


def differs(text, expected, name):
    """Whether a number is not that of the tensor, rounded to the digits that are shown."""
    if text == "0":  # no digit is shown: of a weight six places are kept, and of all else as many as there are
        return abs(expected) > (0.5e-6 if name.endswith("weights") else 1e-40)
    unit = 10.0 ** Decimal(text).as_tuple().exponent
    return abs(float(text) - expected) > unit / 2 + 1e-9 * abs(expected)


@pytest.mark.parametrize("case", ["king", "short", "1,024 tokens"])
def test_numbers_read_at_random_are_those_of_the_trace_in_float64(browser, case):
    draw, model, tensors = random.Random(1), model_of(case), exact(case)
    config, T = model.config, len(ids_of(case))
    browser.open(page_of(case).html)
    browser.open_tables()
    choices = [
        (draw.randrange(T), draw.randrange(config.n_layer), draw.randrange(config.n_head), station)
        for station in STATIONS
        for _ in range(1 if T > 64 else 2)
    ]
    numbers = {}
    for name, index, text in browser.run(CHOOSE + READ, choices):
        numbers.setdefault(layer_and_base(name)[1], set()).add((name, index, text))
    parameters = {name: model.params[name] for name in ("wte", "wpe")}
    kinds = {name.removeprefix("h.*.") for name in TRACE_SHAPES} - {"attn.scores"}
    assert set(numbers) == kinds | set(parameters)
    read = [one for found in numbers.values() for one in draw.sample(sorted(found), min(24, len(found)))]
    assert len(read) >= 200
    wrong = []
    for name, index, text in read:
        index = tuple(map(int, index.split(",")))
        tensor = parameters[name] if name in parameters else tensors[name]
        assert len(index) == (2 if name in parameters else len(letters(name))) == tensor.ndim, (name, index)
        if differs(text, float(tensor[index]), name):
            wrong.append((name, index, text, float(tensor[index])))
    assert not wrong


COSINES = """
const figure = document.querySelector("[data-picture=positions]");
const rows = (part) => [...figure.querySelectorAll(part)].map((row) => [...row.children].map((one) => one.textContent));
const lines = (kind) => [...figure.querySelectorAll(`path.${kind}`)].map((one) => one.getTotalLength());
return [rows("thead tr"), rows("tbody tr"), lines("more"), lines("less")];
"""


@pytest.mark.parametrize("case", ["short", "no tokenizer", "1,024 tokens"])
def test_the_positions_are_shown_with_the_cosines_of_wpe_in_two_colours(browser, case):
    wpe = model_of(case).params["wpe"].astype(np.float64)
    browser.open(page_of(case).html)
    browser.open_tables()
    (head,), rows, more, less = browser.run(COSINES)
    places = [int(place) for place in head[1:]]
    assert [row[0] for row in rows] == head[1:]
    assert len(places) == 64
    x = wpe[places] / np.linalg.norm(wpe[places], axis=1, keepdims=True)
    for i, row in enumerate(rows):
        assert [text for j, text in enumerate(row[1:]) if differs(text, float(x[i] @ x[j]), "wpe")] == []
    cosines = np.array([row[1:] for row in rows], dtype=float)
    shades = np.sign(cosines) * np.floor(12 * np.sqrt(np.abs(cosines)) + 0.5)
    of_the_key = 4 * 12  # four squares of each colour
    assert sum(more) == pytest.approx(4 * np.count_nonzero(shades > 0) + of_the_key)
    assert sum(less) == pytest.approx(4 * np.count_nonzero(shades < 0) + of_the_key)


PARTS_OF_A_LOGIT = """
const select = document.getElementById("target");
select.value = arguments[0];
select.dispatchEvent(new Event("change", { bubbles: true }));
const cells = [...document.querySelectorAll("[data-picture=parts] table [data-part]")];
return cells.map((one) => [one.dataset.part, one.textContent]);
"""


@pytest.mark.parametrize("case", ["king", "no tokenizer"])
def test_what_the_parts_added_sums_to_the_logit(browser, case):
    ids, logits = ids_of(case), exact(case)["logits"]
    browser.open(page_of(case).html)
    browser.open_tables()
    for t in (0, len(ids) // 2, len(ids) - 1):
        came = ids[t + 1 : t + 2]
        expected = [*came, *(i for i in np.argsort(-logits[t], kind="stable").tolist() if i not in came)][:4]
        browser.run(CHOOSE + "pick('token', arguments[0]);", t)
        names = browser.texts("#target option")
        assert [text.removesuffix(" (which came)") for text in names] == [name_of(case, i) for i in expected]
        for target, i in enumerate(expected):
            parts = browser.run(PARTS_OF_A_LOGIT, target)
            config = model_of(case).config
            assert len({name for name, _ in parts}) == len(parts) == 3 + config.n_layer * (config.n_head + 2)
            assert sum(float(amount) for _, amount in parts) == pytest.approx(logits[t, i], rel=0, abs=1e-5)
            assert f"is {logits[t, i]:.3f}." in browser.text("#sum")


@pytest.mark.parametrize("case", ["king", "float64", "1,024 tokens"])
def test_ranks_and_log_probabilities_are_those_of_score(browser, case):
    scored = numgpt.score(model_of(case), ids_of(case))
    browser.open(page_of(case).html)
    browser.open_tables()
    cells = browser.texts("[data-picture=surprise] tbody tr > *")
    rows = [cells[i : i + 4] for i in range(0, len(cells), 4)]
    assert len(rows) == len(ids_of(case))
    assert rows[0][1:] == ["-"] * 3
    assert [int(rank) for _, rank, _, _ in rows[1:]] == scored.ranks[1:].tolist()
    log_probs = [float(log) for _, _, log, _ in rows[1:]]
    np.testing.assert_allclose(log_probs, scored.log_probs[1:], rtol=0, atol=0.5e-4 + 1e-7)
    bits = [float(bits) for _, _, _, bits in rows[1:]]
    np.testing.assert_allclose(bits, -scored.log_probs[1:] / np.log(2), rtol=0, atol=0.5e-2 + 1e-6)
    browser.run(CHOOSE + "pick('token', 2);")
    told = browser.text("#one-surprise")
    assert f"rank {scored.ranks[2]:,}," in told
    assert f"log-probability {scored.log_probs[2]:.4f}," in told


def some_settings(draw):
    """Return settings of the sliders, each of the last three on in about half of all cases."""
    on = {
        "top_k": draw.randint(1, 100),
        "top_p": draw.randint(1, 100) / 100,
        "min_p": draw.choice([draw.randint(1, 10), draw.randint(1, 100)]) / 100,
    }
    off = {"top_k": 0, "top_p": 1, "min_p": 0}
    heat = draw.choice([1, draw.randint(1, 200) / 100, draw.randint(20, 150) / 100])
    return {"temperature": heat, **{name: x if draw.random() < 0.5 else off[name] for name, x in on.items()}}


def narrowed(logits, settings):
    """Return logits behind the controls that are on, in their order."""
    functions = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    for name, function in functions.items():
        if name == "temperature" or settings[name] != (name == "top_p"):
            logits = OfLogits(function, settings[name])(logits, [])
    return logits


def possible(logits, settings):
    """Return the distributions that are right, for each id.

    Whether a token that stands at the cut of top-p is kept hangs on the last bits of a sum of up to 50257 numbers, of
    which the page knows most by their bins alone. So the nucleus may have one token more, or one less.
    """
    x = narrowed(logits, {**settings, "top_p": 1, "min_p": 0})
    p = softmax(x)
    order = np.argsort(-p, kind="stable")
    count = np.count_nonzero(np.isfinite(narrowed(logits, {**settings, "min_p": 0})))
    counts = {count} if settings["top_p"] == 1 else {max(1, count - 1), count, min(count + 1, np.count_nonzero(p))}
    for n in sorted(counts, key=lambda n: abs(n - count)):
        kept = np.full_like(x, -np.inf)
        kept[order[:n]] = x[order[:n]]
        yield softmax(min_p(kept, settings["min_p"]))


def same(found, expected):
    return abs(found - expected) <= 5e-4 * expected or max(found, expected) < 1e-12


LISTED = """
return arguments[0].map(([t, settings]) => {
  pick("token", t);
  for (const [id, value] of Object.entries(settings)) set(id, value);
  const rows = [...document.querySelectorAll("#candidates [data-id][data-p]")];
  return {
    settings: Object.fromEntries(Object.keys(settings).map((id) => [id, Number(document.getElementById(id).value)])),
    rows: rows.map((row) => [Number(row.dataset.id), row.dataset.p]),
    kept: document.getElementById("kept").textContent,
  };
});
"""


@pytest.mark.parametrize("case", ["king", "no tokenizer", "even odds", "odds", "uneven odds"])
def test_the_sliders_give_the_distribution_of_the_samplers(browser, case):
    draw, logits = random.Random(3), exact(case, ("logits",))["logits"]
    browser.open(page_of(case).html)
    choices = [(draw.randrange(len(logits)), some_settings(draw)) for _ in range(30)]
    choices.append((1, {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0}))
    wrong = []
    for (t, settings), shown in zip(choices, browser.run(CHOOSE + LISTED, choices), strict=True):
        assert shown["settings"] == settings
        rows = [(i, float(text)) for i, text in shown["rows"]]
        assert len(rows) == min(40, logits.shape[1])
        some = list(possible(logits[t], settings))
        apart = [[(i, found, p[i]) for i, found in rows if not same(found, p[i])] for p in some]
        if all(apart):
            worst = max(apart[0], key=lambda one: abs(one[1] - one[2]))
            wrong.append((t, settings, len(apart[0]), worst))
        elif "not listed" not in shown["kept"]:
            count = int(shown["kept"].split()[0].replace(",", ""))
            assert count in {np.count_nonzero(p) for p in some}, (t, settings, shown["kept"])
    assert not wrong


@pytest.mark.parametrize("case", ["king", "uneven odds"])
def test_the_draw_is_that_of_sample_with_the_same_seed(browser, case):
    draw, ids, logits = random.Random(5), ids_of(case), exact(case, ("logits",))["logits"]
    seeds = [0, 1, 2, 12345, 2**32, 2**53 + 1, 2**64 - 1]
    browser.open(page_of(case).html)
    controls, drawn = [OfLogits(top_k, 40)], set()
    for seed, t in [*itertools.product(seeds, [0, len(ids) // 2, len(ids) - 1]), (7, draw.randrange(len(ids)))]:
        browser.run(CHOOSE + "pick('token', arguments[0]); set('top_k', 40); set('seed', arguments[1]);", t, str(seed))
        found = browser.text("#drawn")
        expected = sample(logits[t], ids[: t + 1], controls, seed=seed)
        assert found == f"draws {name_of(case, expected)}", (seed, t)
        drawn.add(found)
    assert len(drawn) > 5
    assert browser.run("document.getElementById('again').click(); return document.getElementById('seed').value;") == "8"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_wrong_as_a_page_opens_and_with_all_tables_open(browser, dark, width):
    browser.open(page_of("short").html, width, dark)
    back = browser.run("return getComputedStyle(document.documentElement).backgroundColor;")
    assert (back != "rgb(255, 255, 255)") == dark
    found = {"as it opens": browser.violations()}
    browser.open_tables()
    browser.run(CHOOSE + "station('mlp.post'); document.querySelector('[name=colour][value=bits]').click();")
    found["with all tables open"] = browser.violations()
    assert found == {"as it opens": {}, "with all tables open": {}}


@pytest.mark.parametrize("case", ["king", "short", "48 layers", "1,024 tokens", "right to left", "lines and tabs"])
def test_nothing_is_wider_than_a_phone(browser, case):
    browser.open(page_of(case).html, width=390)
    width = "return document.documentElement.scrollWidth;"
    closed = browser.run(width)
    browser.open_tables()
    widths = {station: browser.run(CHOOSE + f"station(arguments[0]); {width}", station) for station in STATIONS}
    widths = {"as it opens": closed, **widths}
    assert {station: found for station, found in widths.items() if found > 390} == {}


def spelt_back(text):
    """Return the bytes that the text of a page stands for."""
    text = text.replace("⏎\n", "\n")
    parts = re.split(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4})", text)
    for at in range(1, len(parts), 2):
        code = int(parts[at][1:], 16)
        parts[at] = bytes([code]) if parts[at][0] == "x" else chr(code).encode()
    return b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)


UNSEEN = re.compile(f"[{HIDDEN}\x0b\x0c\ufffd]")
LABELS = "return [...document.querySelectorAll('[aria-label]')].map((one) => one.ariaLabel);"
TEXTS = [
    *ODD_TEXTS,
    *(name + OF_GPT2 for name in ("emoji", "right to left", "control characters")),
    *(name + WHOLE for name in ODD_TEXTS),
]


@pytest.mark.parametrize("case", TEXTS)
def test_any_text_makes_a_right_page_that_shows_it_as_it_is(browser, case):
    browser.open(page_of(case).html)
    assert_filled(browser)
    pieces = browser.texts("#surprise [data-token] bdi")
    assert len(pieces) == len(ids_of(case))
    assert b"".join(map(spelt_back, pieces)) == text_of(case).encode()
    assert browser.texts("#tokens [data-token] bdi") == [name_of(case, i) for i in ids_of(case)]
    shown = [browser.run("return document.body.innerText;"), *browser.run(LABELS)]
    assert [text for text in shown if UNSEEN.search(text)] == []
    assert browser.run("return document.querySelectorAll('img, iframe, body script').length;") == 2
    browser.open_tables()
    browser.run(
        CHOOSE + "pick('token', 0); for (const one of document.getElementById('stations').children) one.click();"
    )
    assert_filled(browser)
    assert_pictures_can_be_saved(browser)
    assert browser.messages() == []


@pytest.mark.parametrize("name", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_the_name_of_a_model_is_shown_as_it_is_and_without_characters_that_are_not_seen(browser, name):
    browser.open(numgpt.explain(model_of("short"), ids_of("short"), name).html)
    about = browser.run("return document.getElementById('about').textContent;")
    assert not UNSEEN.search(about), about
    assert spelt_back(about).decode().startswith(f"{name}: 6 layers, ")
    assert browser.run("return document.querySelectorAll('img, iframe, body script').length;") == 2
    assert browser.messages() == []


@pytest.mark.parametrize("case", TEXTS)
def test_the_title_begins_with_the_text_and_has_no_character_that_is_not_seen(browser, case):
    browser.open(page_of(case).html)
    title = browser.run("return document.title;")
    assert not UNSEEN.search(title), title
    text = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), title.removesuffix(" · numgpt"))
    assert "".join(text.split())[:3] == "".join(text_of(case).split())[:3]


@pytest.mark.parametrize("case", ["no tokenizer", "48 layers", "float64", "1,024 tokens", "even odds"])
def test_any_model_makes_a_right_page(browser, case):
    ids, config = ids_of(case), model_of(case).config
    browser.open(page_of(case).html)
    assert_filled(browser)
    browser.open_tables()
    browser.run(
        CHOOSE + "pick('token', arguments[0]); pick('layer', arguments[1]); pick('head', arguments[2]);",
        len(ids) // 2,
        config.n_layer - 1,
        config.n_head - 1,
    )
    assert_filled(browser)
    counts = [len(browser.texts(f"#choose-{key} option")) for key in ("token", "layer", "head")]
    assert counts == [len(ids), config.n_layer, config.n_head]
    assert f"Layer {config.n_layer - 1}, head {config.n_head - 1}" in text_of_parts(browser)["attention"]
    assert_pictures_can_be_saved(browser)
    assert browser.messages() == []


FIGURES = [
    "merges",
    "way",
    "numbers",
    "positions",
    "heads",
    "head",
    "lens",
    "parts",
    "next",
    "race",
    "surprise",
    "cache",
]
SAVED = """
const names = [...document.querySelectorAll("figure")].map((one) => one.dataset.picture);
return Object.fromEntries(names.map((name) => [name, pictureAsSvg(name)]));
"""


def assert_pictures_can_be_saved(browser):
    """Each picture parses as SVG, stands alone, and says itself what it looks like."""
    saved = browser.run(SAVED)
    assert set(saved) == set(FIGURES)
    for name, text in saved.items():
        root = ElementTree.fromstring(text.encode())
        assert root.tag == f"{SVG}svg", name
        assert len(root) > 1, name
        for node in root.iter():
            assert node.tag.removeprefix(SVG) in ("svg", "g", "path", "rect", "text", "tspan"), (name, node.tag)
            assert not {"style", "class", "href"} & {key.rpartition("}")[2] for key in node.attrib}, (name, node.attrib)
            outside = [value for value in node.attrib.values() if re.search(r"url\(|var\(|light-dark|://", value)]
            assert not outside, (name, node.attrib)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_each_picture_can_be_saved_as_svg(browser, dark):
    browser.open(page_of("short").html, dark=dark)
    for station in STATIONS:
        browser.run(CHOOSE + "station(arguments[0]);", station)
        assert_pictures_can_be_saved(browser)


def test_a_page_in_a_notebook_works_in_its_frame(browser):
    frame = page_of("king")._repr_html_()
    browser.messages()
    browser.open(f'<!doctype html><meta charset="utf-8"><title>A notebook</title><body>{frame}</body>')
    browser.driver.switch_to.frame(0)
    try:
        browser.wait_until(lambda: browser.run("return document.readyState;") == "complete")
        assert_filled(browser)
        browser.run(CHOOSE + "document.querySelector('[data-token=\"3\"]').click(); set('top_k', 40);")
        assert name_of("king", ids_of("king")[3]) in browser.text("#one-token")
        assert browser.text("#kept").startswith("40 of 4,096")
        browser.open_tables()
    finally:
        browser.driver.switch_to.default_content()
    assert browser.messages() == []


WATCH_FOCUS = """
window.all = [...document.querySelectorAll("*")];
window.reached = [];
document.addEventListener("focusin", ({ target }) => window.reached.push(window.all.indexOf(target)));
const reachable = (one) => one.getClientRects().length > 0 && !one.closest("[data-row]")
  && (one.type !== "radio" || one.checked);
const controls = [...document.querySelectorAll("select, button, input, summary")].filter(reachable);
const rows = [...document.querySelectorAll("[data-row]")].map((row) => row.querySelector("[aria-pressed=true]"));
return [...controls, ...rows].map((one) => window.all.indexOf(one));
"""


def test_everything_is_reached_by_keyboard_once(king):
    expected = king.run(WATCH_FOCUS)
    assert len(expected) == len(set(expected)) >= 40
    king.press(Keys.TAB, times=120)
    reached = king.run("return window.reached;")
    again = next((i for i in range(1, len(reached)) if reached[i] == reached[0]), None)
    assert again is not None, "the keyboard does not come back to the top"
    once = reached[:again]
    describe = "return arguments[0].map((i) => window.all[i].outerHTML.slice(0, 100));"
    assert king.run(describe, [i for i in expected if once.count(i) != 1]) == []
    assert len(set(once)) == len(once)
    assert once == sorted(once), "the order is not that of the page"
    others = "return arguments[0].map((i) => window.all[i]).filter((one) => !one.matches('pre, ol, div')).length;"
    assert king.run(others, [i for i in once if i not in expected]) == 0


def test_what_is_pressed_by_keyboard_does_what_a_click_does(king):
    king.run("[...document.getElementById('stations').children].find((one) => one.textContent === 'ln_2').focus();")
    king.press(Keys.ENTER)
    assert king.text("article.chosen h3").startswith("ln_2:")
    king.run("document.querySelector('[data-picture=\"head\"] summary').focus();")
    king.press(Keys.ENTER)
    king.wait_until(lambda: king.run("return Boolean(document.querySelector('[data-picture=\"head\"] tbody'));"))
    king.run("document.getElementById('top_k').focus();")
    king.press(Keys.ARROW_RIGHT)
    assert king.text("output[for=top_k]") == "1"
    assert king.text("#kept").startswith("1 of 4,096")
    king.run("document.querySelector('[name=colour][value=rank]').focus();")
    king.press(Keys.ARROW_RIGHT)
    assert king.run("return document.querySelector('[name=colour]:checked').value;") == "bits"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_verification_is_for_everybody_and_asks_nobody(browser, dark, width):
    model = numgpt.load("storyteller")
    ids = model.tokenizer.encode("Once upon a time there was a king")
    tensors = collect(ids, model, replace={"h.2.attn_out": lambda x: x * 1.01})
    report = compare(Dump(tensors, {}), model, ids)
    browser.open(verification.page_of(report, model.config, "storyteller", "dump.npz"), width, dark)
    assert "h.2.attn_out differs" in browser.text("#verdict")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.violations() == {}
    assert browser.messages() == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())

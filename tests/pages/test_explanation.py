"""The page as a file: it holds what it should, asks nobody for anything, and no text or name gets out of its place."""

import base64
import hashlib
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.pages import small

import numgpt
from numgpt import ops
from numgpt.errors import CheckpointError, ContextError, TokenError
from numgpt.ops import ACTIVATIONS
from numgpt.pages.explanation import explain
from numgpt.tokenizer import Tokenizer

BYTES = small(n_vocab=256, n_ctx=64, tokenizer=Tokenizer([]))
HOSTILE = [
    "</script>",
    "<!--<script>]]>",
    '"><img src=x>',
    "' onload='x",
    "&lt;/title&gt;",
    "{{script}}{{data}}",
    "\\u003c\\",
]
UNSEEN = ["\x00\x1b[31m\r\n\x85", "\u061c\u200b\u2028\u202e\u2067\ufeff"]


class Page(HTMLParser):
    """The elements of a page as a browser takes them: their names, attributes and texts."""

    def __init__(self, html):
        super().__init__()
        self.found, self.inside = [], False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1][2].append(data)

    def texts(self, tag):
        return ["".join(text) for name, _, text in self.found if name == tag]

    @property
    def skeleton(self):
        return [(tag, attributes) for tag, attributes, _ in self.found]


@pytest.fixture(scope="module")
def page():
    return explain(BYTES, "so it is", "a model")


@cache
def hostile(odd):
    """Return the page of a text and a model that are called by something odd."""
    return explain(BYTES, f"{odd} is", f"of {odd}")


def data_of(html):
    """Return what lies in a page between the first script tag and the first end of a script behind it."""
    return html.partition('<script type="application/json" id="data">')[2].partition("</script")[0]


# ---- what is in it


def test_the_page_holds_its_data(page):
    assert json.loads(data_of(page.html)) == json.loads(json.dumps(page.data))
    assert page.data["name"] == "a model"
    assert page.data["ids"] == list(b"so it is")


def test_a_list_of_ids_makes_the_same_page_as_their_text(page):
    for ids in list(b"so it is"), np.frombuffer(b"so it is", dtype=np.uint8):
        assert explain(BYTES, ids, "a model") == page


def test_special_tokens_count_only_where_they_are_allowed():
    model = small(n_vocab=257, tokenizer=Tokenizer([], special_tokens={"<end>": 256}))
    assert explain(model, "a<end>").data["ids"] == list(b"a<end>")
    assert explain(model, "a<end>", allow_special=True).data["ids"] == [97, 256]


def test_save_writes_the_page_and_nothing_beside_it(page, tmp_path):
    for path in tmp_path / "a.html", str(tmp_path / "b.html"):
        page.save(path)
        assert Path(path).read_bytes() == page.html.encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_file_stays_as_it_is_where_the_page_can_not_be_written(page, tmp_path):
    (tmp_path / "a.html").write_text("old")
    with pytest.raises(CheckpointError, match="can't be written"):
        page.save(tmp_path / "a.html" / "b.html")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.html", "old")]


def test_the_code_that_it_shows_is_the_code_that_runs(page):
    names = set(re.findall(r'data-code="([^"]+)"', page.html))
    assert list(page.data["code"]) == [*sorted(names - {"activation"}), "activation"]  # in an order that stays
    for name, code in page.data["code"].items():
        source = (Path(numgpt.__file__).parents[1] / code["file"]).read_text(encoding="utf-8").splitlines()
        shown = code["code"].splitlines()
        function = "gelu" if name == "activation" else name.rpartition(".")[2]
        assert shown[0].startswith(f"def {function}(")
        assert source[code["line"] - 1].strip() == shown[0]
        assert {line.strip() for line in shown} <= {line.strip() for line in source}
        assert '"""' not in code["code"]


def test_it_says_in_short_what_it_is(page):
    assert re.fullmatch(r"Explanation\(tokens: 8, 0\.\d MB; \.save\('page\.html'\) writes it\)", repr(page))


def test_the_title_begins_with_the_text_or_has_the_ids():
    assert Page(explain(BYTES, "so it is").html).texts("title") == ["so it is · numgpt"]
    [title] = Page(explain(BYTES, "so it was and ever shall be, sir").html).texts("title")
    assert title == "so it was and ever shall be, sir · numgpt"
    assert Page(explain(small(), [3, 1, 4]).html).texts("title") == ["3 1 4 · numgpt"]


# ---- it asks nobody


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_nothing_else(page):
    parsed = Page(page.html)
    [policy] = [a["content"] for tag, a, _ in parsed.found if a.get("http-equiv") == "Content-Security-Policy"]
    allowed = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def hash_of(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    [style], [data, script] = parsed.texts("style"), parsed.texts("script")
    assert allowed == {
        "default-src": "'none'",
        "style-src": hash_of(style),
        "script-src": hash_of(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert data == data_of(page.html)
    tags = [tag for tag, _ in parsed.skeleton]
    assert tags.index("meta") < tags.index("style") < tags.index("script")  # a policy counts for what comes after it


def test_nothing_in_the_page_is_fetched_from_elsewhere(page):
    parsed = Page(page.html)
    for tag, attributes in parsed.skeleton:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source")
        assert not {"src", "srcset", "href", "action", "data", "poster", "xlink:href", "style"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert not re.search(r"@import|url\(", *parsed.texts("style"))
    assert set(re.findall(r"\w+://[^\s\"'`]*", page.html)) == {"http://www.w3.org/2000/svg"}  # the name of a language
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\(", page.html)


# ---- nothing gets out of its place


@pytest.mark.parametrize("odd", [*HOSTILE, *UNSEEN])
def test_no_text_or_name_of_a_model_becomes_a_part_of_the_page(odd, page):
    parsed = Page(hostile(odd).html)
    assert parsed.skeleton == Page(page.html).skeleton
    assert parsed.texts("script")[1:] == Page(page.html).texts("script")[1:]
    assert parsed.texts("style") == Page(page.html).texts("style")
    raw = data_of(hostile(odd).html)
    assert raw.isascii()
    assert raw.isprintable()
    assert "<" not in raw
    data = json.loads(raw)
    assert data["name"] == f"of {odd}"
    assert bytes(data["ids"]).decode() == f"{odd} is"


@pytest.mark.parametrize("odd", HOSTILE)
def test_a_token_that_is_a_text_with_markup_stays_a_token(odd, page):
    model = small(n_vocab=257, tokenizer=Tokenizer([], special_tokens={odd: 256}))
    html = explain(model, [256, 97, 256]).html
    assert Page(html).skeleton == Page(page.html).skeleton
    assert json.loads(data_of(html))["texts"]["256"] == odd


@pytest.mark.parametrize("odd", [*HOSTILE, *UNSEEN])
def test_the_title_is_text_alone_and_spells_what_is_not_seen(odd):
    [title] = Page(hostile(odd).html).texts("title")
    spelt = "".join(f"\\u{ord(c):04x}" if c in "\0\x1b\r\x85\u061c\u200b\u202e\u2067\ufeff" else c for c in odd)
    assert title == f"{spelt} is · numgpt"


@pytest.mark.parametrize("odd", ["so it", *HOSTILE, *UNSEEN])
def test_in_a_notebook_the_page_is_in_a_frame_that_it_can_not_leave(odd):
    frame = hostile(odd)._repr_html_()
    parsed = Page(frame)
    [(tag, attributes)] = parsed.skeleton
    assert tag == "iframe"
    assert attributes["srcdoc"] == hostile(odd).html
    assert set(attributes["sandbox"].split()) == {"allow-scripts", "allow-downloads"}  # and not the notebook's origin
    assert "".join(parsed.texts("iframe")) == ""
    inner = frame.partition('srcdoc="')[2].partition('"')[0]
    assert not re.search("[<>]", inner)
    assert frame.count("<") == 2


# ---- what is refused, and what is not


def test_what_can_not_be_explained_is_refused():
    with pytest.raises(TokenError, match="ids: empty"):
        explain(BYTES, "")
    with pytest.raises(TokenError, match=r"ids\[1\] is 256, expected 0 to 255"):
        explain(BYTES, [1, 256])
    with pytest.raises(ContextError, match="65 tokens, but the context of this model is 64"):
        explain(BYTES, "x" * 65)
    with pytest.raises(TokenError, match="this model has no tokenizer"):
        explain(small(), "text")
    assert len(explain(BYTES, "x" * 64).data["ids"]) == 64


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_model_of_any_activation_is_explained_with_its_code(name):
    shown = explain(small(activation_function=name), [1, 2]).data["code"]["activation"]
    if name == "tanh":
        assert shown == {"file": "numpy", "line": 0, "code": ""}
    else:
        defined = {}
        exec(shown["code"], vars(ops), defined)
        [function] = defined.values()
        x = np.linspace(-3, 3, 13)
        assert np.array_equal(function(x), ACTIVATIONS[name](x))

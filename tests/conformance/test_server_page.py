"""The server's page in Chromium: it writes, streams, stops, shows what else might have come, and is for everyone."""

import time

import pytest
from selenium.webdriver.common.keys import Keys
from support.browser import Browser
from support.serving import served, small

MODEL = small(n_ctx=512)


@pytest.fixture(scope="module")
def server():
    with served(MODEL, name="<b>small</b>") as client:
        yield client


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("page"))
    found.cdp("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    yield found
    found.close()


@pytest.fixture
def page(browser, server):
    """The page, anew: nothing may be asked for elsewhere, and the console has nothing to say."""
    browser.resize(1280)
    browser.messages()
    browser.requests()
    browser.driver.get(f"{server.url}/")
    browser.wait_until(lambda: "sees 512 tokens" in browser.text("#about"))
    yield browser
    assert browser.messages() == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in browser.requests())


def put(page, **fields):
    """Fill in fields of the settings."""
    for name, value in fields.items():
        page.run(f"document.getElementById('settings').elements.{name}.value = arguments[0];", value)
    page.run("document.getElementById('new-seed').checked = false;")


def write(page, text="Once upon a time", wait=True, **fields):
    put(page, **{"max_tokens": 12, "seed": 3, **fields})
    page.run("document.getElementById('prompt').value = arguments[0]; document.getElementById('write').click();", text)
    if wait:
        page.wait_until(lambda: "a second" in page.text("#status"))


def tokens(page):
    return page.texts("#story button")


def expected(server, prompt, **options):
    fields = {"temperature": 0.8, "top_k": 40, "max_tokens": 12, "seed": 3, **options}
    return server.complete(prompt=prompt, logprobs=8, return_token_ids=True, **fields)["choices"][0]


def test_it_writes_the_text_of_the_api(page, server):
    write(page)
    found = expected(server, "Once upon a time")
    assert "".join(tokens(page)) == found["text"].replace("\n", "↵\n")
    assert page.text("#story > bdi") == "Once upon a time"
    assert page.text("h1") == "<b>small</b>"


def test_the_likeliest_tokens_are_shown_and_one_of_them_can_be_chosen(page, server):
    write(page)
    whole = expected(server, "Once upon a time")
    page.run("document.querySelectorAll('#story button')[4].click();")
    top = whole["logprobs"]["top_logprobs"][4]
    words = [word.replace("\n", "↵\n") for word in top]
    assert page.texts("#token li bdi") == words
    assert len(words) >= 8
    assert [float(text.split()[0]) for text in page.texts("#token .number") if "<" not in text]
    page.run("document.querySelectorAll('#token li button')[2].click();")
    page.wait_until(lambda: "a second" in page.text("#status"))
    other = whole["logprobs"]["top_token_ids"][4][2]
    prompt = [*MODEL.tokenizer.encode("Once upon a time"), *whole["token_ids"][:4], other]
    after = expected(server, prompt)
    assert "".join(tokens(page)[5:]) == after["text"].replace("\n", "↵\n")
    assert tokens(page)[:4] == [word.replace("\n", "↵\n") for word in whole["logprobs"]["tokens"][:4]]
    assert tokens(page)[4] == words[2]


def test_it_goes_on_from_a_token_and_from_the_end(page, server):
    write(page)
    whole = expected(server, "Once upon a time")
    ids = [*MODEL.tokenizer.encode("Once upon a time"), *whole["token_ids"]]
    page.run("document.getElementById('more').click();")
    page.wait_until(lambda: "a second" in page.text("#status"))
    assert "".join(tokens(page)[12:]) == expected(server, ids)["text"].replace("\n", "↵\n")
    page.run("document.querySelectorAll('#story button')[2].click();")
    page.run("document.querySelector('#token .buttons button').click();")
    page.wait_until(lambda: "a second" in page.text("#status"))
    assert "".join(tokens(page)[3:]) == expected(server, ids[:-9])["text"].replace("\n", "↵\n")


def test_it_streams_and_stops(page, server):
    server.server.engine.tell, tell = slowly(server.server.engine.tell), server.server.engine.tell
    try:
        write(page, wait=False, max_tokens=400)
        page.wait_until(lambda: len(tokens(page)) > 3)
        assert page.run("return document.getElementById('stop').disabled;") is False
        page.press(Keys.ESCAPE)
        page.wait_until(lambda: "Stopped" in page.text("#status"))
        page.wait_until(lambda: not server.server.engine.running)
        assert 3 < len(tokens(page)) < 400
    finally:
        server.server.engine.tell = tell


def slowly(tell):
    def slow(all_news):
        time.sleep(0.03)
        tell(all_news)

    return slow


def test_errors_are_told_in_words(page, monkeypatch, server):
    write(page, wait=False, max_tokens=9999)
    page.wait_until(lambda: "max_tokens is 9999" in page.text("#error"))
    monkeypatch.setattr(server.server.engine, "queue", 0)
    write(page, wait=False)
    page.wait_until(lambda: "busy" in page.text("#error"))
    monkeypatch.undo()
    write(page)
    assert page.text("#error") == ""
    assert len(page.messages()) == 2  # Chromium tells of each status that is no success


def test_with_a_key_it_asks_for_it(browser):
    with served(MODEL, api_key="secret") as server:
        browser.driver.get(f"{server.url}/")
        browser.wait_until(lambda: browser.run("return !document.getElementById('ask-key').hidden;"))
        browser.run("document.getElementById('key').value = 'secret';")
        browser.run("document.querySelector('#ask-key button').click();")
        browser.wait_until(lambda: "sees 512 tokens" in browser.text("#about"))
        write(browser)
        assert len(tokens(browser)) == 12
    browser.messages()


def test_a_text_of_markup_stays_text(page):
    text = "<img src=x onerror=alert(1)> <script>alert(2)</script>\u202e"
    write(page, text)
    assert page.text("#story > bdi") == text.replace("\u202e", "\\u202e")
    assert page.run("return document.querySelectorAll('#story img, #story script').length;") == 0


def test_explain_opens_the_page_that_explains_the_text(page):
    write(page)
    page.run("document.getElementById('explain').click();")
    page.wait_until(lambda: page.texts("#page a"), 30)
    first = page.driver.current_window_handle
    page.run("document.querySelector('#page a').click();")
    page.wait_until(lambda: len(page.driver.window_handles) == 2)
    page.driver.switch_to.window(page.driver.window_handles[-1])
    page.wait_until(lambda: page.texts("#one-token") and page.text("#one-token"))
    page.driver.close()
    page.driver.switch_to.window(first)


def test_it_can_be_used_by_keyboard_alone(page):
    page.run("document.getElementById('prompt').focus();")
    put(page, max_tokens=10, seed=3)
    page.press("Once")
    page.driver.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait_until(lambda: "a second" in page.text("#status"))
    page.run("document.querySelector('#story button').focus();")
    page.press(Keys.ENTER)
    page.press(Keys.ARROW_RIGHT, 2)
    assert page.run("return document.activeElement.dataset.number;") == "2"
    assert page.run("return document.activeElement.ariaPressed;") == "true"
    assert len(page.texts("#token li")) >= 8
    page.press(Keys.TAB)
    assert page.run("return document.activeElement.closest('#token li') !== null;")
    page.press(Keys.ENTER)
    page.wait_until(lambda: "a second" in page.text("#status") and len(tokens(page)) == 13)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(page, width, dark):
    page.resize(width)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.cdp("Emulation.setEmulatedMedia", features=[scheme])
    assert page.violations() == {}
    write(page, max_tokens=60)
    page.run("document.querySelectorAll('#story button')[7].click();")
    page.run("document.getElementById('ask-key').hidden = false;")
    assert page.violations() == {}
    assert page.run("return document.documentElement.scrollWidth;") <= width


def test_a_server_that_is_gone_is_told(browser):
    with served(MODEL) as server:
        browser.driver.get(f"{server.url}/")
        browser.wait_until(lambda: "sees" in browser.text("#about"))
    put(browser)
    write(browser, wait=False)
    browser.wait_until(lambda: "can't be reached" in browser.text("#error"))
    browser.messages()

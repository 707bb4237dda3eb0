"""A browser without a window, for tests of pages. No test is in here."""

import json
import os
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
]  # fmt: skip
OPEN_TABLES = "document.querySelectorAll('figure details').forEach((one) => { one.open = true; });"
EMPTY_TABLES = (
    "return [...document.querySelectorAll('figure details')].filter((one) => !one.querySelector('tbody')).length;"
)


def axe_source():
    """Return the script of axe-core: that of AXE_CORE, or of the checkout's node_modules."""
    path = os.environ.get("AXE_CORE") or ROOT / "node_modules" / "axe-core" / "axe.min.js"
    return Path(path).read_text(encoding="utf-8")


def program(name):
    """Return the path of a program; Selenium would look for it on the network."""
    path = shutil.which(name)
    assert path, f"{name} is not installed"
    return path


class Browser:
    """Chromium, denied the network. It shows one page at a time."""

    def __init__(self, folder):
        """folder: where the pages are written and what they save is found"""
        options = Options()
        options.binary_location = program("chromium")
        for option in [*OPTIONS, *["--no-sandbox"] * (os.geteuid() == 0)]:
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.folder = folder
        self.leftovers = TemporaryDirectory()  # Chromium does not clear away all that it writes
        service = Service(program("chromedriver"), env={**os.environ, "TMPDIR": self.leftovers.name})
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(30)
        self.cdp("Network.enable")
        self.cdp("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def cdp(self, command, **arguments):
        """Give a command of the Chrome DevTools Protocol, and return its answer."""
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script, *arguments):
        """Run the body of a function in the page, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector):
        """Return the text of each element that a selector finds, those that are hidden too."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent);", selector)

    def text(self, selector):
        """Return the text of the one element that a selector finds."""
        (text,) = self.texts(selector)
        return text

    def evaluate(self, expression):
        """Return what a promise of the page gives. The page's content security policy does not bind this."""
        found = self.cdp("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, html, width=1280, dark=False):
        """Write a page to a file and open that. Return its address."""
        path = self.folder / "page.html"
        path.write_text(html, encoding="utf-8")
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.messages()
        self.requests()
        self.driver.get(path.as_uri())
        return path.as_uri()

    def resize(self, width):
        """Make the window as wide as that: below 500 px as a phone has it."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)

    def open_tables(self):
        """Open the tables behind all pictures."""
        self.run(OPEN_TABLES)
        self.wait_until(lambda: self.run(EMPTY_TABLES) == 0)

    def wait_until(self, holds, seconds=10):
        """Wait for something; fail where it does not come to hold."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def messages(self):
        """Return all that was written to the console since the last call."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self):
        """Return the addresses that were asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def press(self, key, times=1):
        """Press a key, so many times."""
        keys = ActionChains(self.driver, duration=0)
        for _ in range(times):
            keys.send_keys(key)
        keys.perform()

    def violations(self):
        """Return what axe-core finds wrong: the rule, and the elements that break it."""
        self.cdp("Runtime.evaluate", expression=axe_source())
        found = self.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
        return {one["id"]: [node["html"][:120] for node in one["nodes"][:3]] for one in found}

    def close(self):
        """Quit."""
        self.driver.quit()
        self.leftovers.cleanup()

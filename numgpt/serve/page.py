"""The page that the server shows at /: a place to write, in one answer that asks nobody else for anything."""

import html
import re

from numgpt.pages.explanation import file_of_the_page, hash_of


def page_of(name: str) -> tuple[str, str]:
    """Return the page of a model of this name, and its content security policy.

    The policy allows the style and the script of this page, and those of the page that explains a text: a page that
    comes as a blob, as that one does, is bound by the policy of the page that made it.

    >>> page, policy = page_of("storyteller")
    >>> "<h1>storyteller</h1>" in page, policy.split("; ")[0]
    (True, "default-src 'none'")
    """
    page, style, script = (file_of_the_page(f"page.{kind}", "numgpt.serve") for kind in ("html", "css", "js"))
    styles, scripts = (
        f"{hash_of(ours)} {hash_of(file_of_the_page(theirs))}"
        for ours, theirs in (
            (style, "page.css"),
            (script, "page.js"),
        )
    )
    parts = {"title": html.escape(f"{name} · numgpt"), "name": html.escape(name), "style": style, "script": script}
    policy = {
        "default-src": "'none'",
        "style-src": styles,
        "script-src": scripts,
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)
    return filled, "; ".join(f"{what} {allowed}" for what, allowed in policy.items())

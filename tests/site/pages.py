"""Where the built site is, which pages it has (those of `_toc.yml`), and how a test opens one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PAGES = re.findall(r"(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text())
NOTEBOOKS = [name for name in PAGES if name.startswith("notebooks/")]


@dataclass
class Visit:
    """A loaded page, and what happened while it loaded."""

    name: str
    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, site: str, name: str, *, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
    """The page, once it is quiet and its mathematics is set."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Visit(name, context.new_page())
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("console", lambda said: seen.complaints.append(said.text) if said.type == "error" else None)
    seen.page.on(
        "response", lambda got: seen.complaints.append(f"{got.status} {got.url}") if got.status >= 400 else None
    )
    seen.page.goto(f"{site}/{name}.html", wait_until="networkidle")
    seen.page.evaluate("() => window.MathJax?.startup?.promise")
    yield seen
    context.close()

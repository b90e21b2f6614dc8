"""The built site on a local server, one Chromium, and every page opened three times: light, dark and on a phone.

The three are session fixtures with parameters, so that pytest runs all tests of one opened page together.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pages import HTML, PAGES, Visit, opened
from playwright.sync_api import Browser, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that closes a connection early is no news."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Not the place for an access log."""


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Address of the built site, without a slash at the end."""
    if not (HTML / "index.html").exists():
        pytest.fail("no site in _build/html: run `make book` first")
    server = Server(("127.0.0.1", 0), partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail("no Chromium found (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session", params=PAGES)
def light(browser: Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    with opened(browser, site, request.param) as seen:
        yield seen


@pytest.fixture(scope="session", params=PAGES)
def dark(browser: Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    with opened(browser, site, request.param, scheme="dark") as seen:
        yield seen


@pytest.fixture(scope="session", params=PAGES)
def phone(browser: Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    with opened(browser, site, request.param, width=375) as seen:
        yield seen

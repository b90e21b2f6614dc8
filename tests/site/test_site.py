"""Every page of the book in a real browser: offline, without errors, readable by everyone, and honest about pixels."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import HTML, NOTEBOOKS, PAGES, ROOT, Visit, opened

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
# axe's findings that come from Jupyter Book's own markup and that we cannot mend: rule id -> reason. So far none.
ALLOWED: dict[str, str] = {}
COLAB = re.compile(r"https://colab\.research\.google\.com/github/[\w-]+/[\w-]+/blob/main/(.+)")


def test_page_loads_offline_and_without_errors(light: Visit, site: str):
    assert [url for url in light.requests if not url.startswith((site, "data:", "blob:"))] == []
    assert light.complaints == []
    broken = "all => all.filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
    assert light.page.eval_on_selector_all("img", broken) == []


def test_mathematics_is_typeset(light: Visit):
    written = (HTML / f"{light.name}.html").read_text().count('class="math notranslate')
    assert light.page.locator("mjx-container").count() >= written
    assert light.page.locator("mjx-assistive-mml").count() >= written, "nothing for a screen reader"
    assert light.page.locator("mjx-merror").count() == 0
    prose = "all => all.map(e => e.innerText).join(' ')"
    assert not re.search(r"\\[(\[]|\$\$", light.page.eval_on_selector_all("article :is(p, li, td, figcaption)", prose))


def test_some_pages_have_mathematics():
    """So that the test above cannot pass on a book without any."""
    assert sum('class="math notranslate' in (HTML / f"{name}.html").read_text() for name in PAGES) >= 2


def test_images_have_a_text_for_those_who_cannot_see_them(light: Visit):
    for alt in light.page.eval_on_selector_all("article img", "all => all.map(i => i.getAttribute('alt') ?? '')"):
        assert 0 < len(alt.strip()) <= 250
        assert not re.search(r"\.(png|jpe?g|svg)$|^_?[\w.-]+/", alt), f"a path, not a text: {alt}"


def test_axe_finds_nothing_in_light_mode(light: Visit):
    assert violations(light) == []


def test_axe_finds_nothing_in_dark_mode(dark: Visit):
    assert violations(dark) == []


def violations(seen: Visit) -> list[tuple[str, str, str]]:
    found = Axe().run(seen.page, context="article.bd-article", options={"runOnly": WCAG}).response["violations"]
    nodes = [(rule["id"], node) for rule in found if rule["id"] not in ALLOWED for node in rule["nodes"]]
    return [(rule, node["html"], node["failureSummary"]) for rule, node in nodes]


def test_dark_mode_leaves_pixels_alone(dark: Visit):
    assert dark.page.get_attribute("html", "data-theme") == "dark"
    filters = dark.page.eval_on_selector_all(".bd-content img", "all => all.map(i => getComputedStyle(i).filter)")
    assert set(filters) <= {"none"}


def test_fits_a_phone(phone: Visit):
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 375
    wide = """all => {
        const scrolls = e => e && (getComputedStyle(e).overflowX == "auto" || scrolls(e.parentElement));
        return all.filter(e => e.getBoundingClientRect().right > 376 && !scrolls(e)).map(e => e.outerHTML.slice(0, 99));
    }"""
    assert phone.page.eval_on_selector_all("main :is(h1, h2, h3, p, img, figure)", wide) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_launch_button_opens_a_file_of_the_repository(name: str):
    links = re.findall(r'href="(https://colab[^"]+)"', (HTML / f"{name}.html").read_text())
    assert links
    for link in links:
        path = COLAB.fullmatch(link)
        assert path, link
        assert path.group(1) == f"{name}.ipynb"
        assert (ROOT / path.group(1)).is_file()
        assert subprocess.run(["git", "check-ignore", "-q", path.group(1)], cwd=ROOT).returncode != 0


def test_search_finds_a_word(browser, site: str):
    with opened(browser, site, "search") as seen:
        seen.page.goto(f"{site}/search.html?q=Tweedie")
        seen.page.wait_for_selector("#search-results li a")
        assert seen.page.locator("#search-results li a", has_text=re.compile("glossary|tweedie", re.I)).count() > 0


def test_theme_button_changes_the_theme(browser, site: str):
    with opened(browser, site, PAGES[0]) as seen:
        themes = {seen.page.get_attribute("html", "data-theme")}
        for _ in range(3):
            seen.page.locator("button.theme-switch-button:visible").first.click()
            themes.add(seen.page.get_attribute("html", "data-theme"))
        assert themes == {"light", "dark"}


def test_every_link_inside_the_site_leads_somewhere(site: str):
    command = [Path(sys.executable).parent / "linkchecker", "-f", Path(__file__).with_name("linkcheckerrc"), f"{site}/"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    checked = re.search(r"That's it\. (\d+) links", done.stdout)
    assert checked
    assert int(checked.group(1)) > len(PAGES)

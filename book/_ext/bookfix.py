"""Repairs to what Jupyter Book 1.0.4 puts on every page; each says what breaks without it.

- sphinx-thebe loads its script twice ("THEBE_JS_URL has already been declared") and from a CDN: taken out.
- Scripts and style sheets listed twice are loaded once.
- MyST-NB fills a missing `alt` with the image's path, which a screen reader then spells out: refused, as a warning.
- The items of the bibliography have a role that ARIA has deprecated and that their list may not hold: plain list items.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)


def drop_thebe(app: Sphinx, config: Config) -> None:
    for event, listeners in app.events.listeners.items():
        app.events.listeners[event] = [entry for entry in listeners if entry.handler.__module__ != "sphinx_thebe"]


def load_once(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    for kind in ("script_files", "css_files"):
        kept: dict[str, Any] = {}
        for entry in context.get(kind, []):
            name = str(getattr(entry, "filename", entry) or getattr(entry, "attributes", {}).get("body"))
            if "sphinx-thebe" not in name:
                kept.setdefault(name, entry)
        context[kind] = list(kept.values())
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def check_alt(app: Sphinx, doctree: nodes.document) -> None:
    for image in doctree.findall(nodes.image):
        alt = str(image.get("alt", "")).strip()
        if not alt or alt == image.get("uri") or alt.startswith("_build/") or len(alt) > 250:
            logger.warning("image without a text of 1 to 250 characters in alt=: %r", alt[:80], location=image)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", drop_thebe, priority=990)
    app.connect("html-page-context", load_once, priority=990)
    app.connect("doctree-read", check_alt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

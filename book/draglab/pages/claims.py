"""Measured claims: what the book asserts, with the numbers, the interval and where they come from.

`book/results/claims.json` is a list of objects: id, statement, source, key, value, ci_low, ci_high, n, unit, holds, notebook,
provenance. Each measurement also leaves `book/results/<name>.json` with its values per photo.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from dragkit.provenance import provenance


@dataclass(frozen=True)
class Claim:
    """One assertion. `holds` is the verdict at this scale, computed from the interval, never typed in."""

    id: str
    statement: str
    source: str
    key: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    unit: str
    holds: bool
    notebook: str


def results_folder() -> Path:
    """Where recorded measurements lie: `book/results` of the checkout, or their copy inside an installed wheel.

    Raises:
        FileNotFoundError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "results", package / "results"):
        if (folder / "claims.json").is_file():
            return folder
    raise FileNotFoundError(f"no recorded measurements beside {package}; reinstall dragkit, or work in a checkout")


def writable_folder() -> Path:
    """`book/results` of a checkout: a measurement is not written into an installed package.

    Raises:
        FileNotFoundError: the package is installed without its book.
    """
    book = Path(__file__).resolve().parents[2]
    if not (book / "build.py").is_file():
        raise FileNotFoundError(
            "this installation has no book; name a folder for the results, or work in a checkout of the repository"
        )
    (book / "results").mkdir(exist_ok=True)
    return book / "results"


def write(
    name: str, command: str, seeds: list[int], claims: list[Claim], rows: dict[str, Any], folder: Path | None = None
) -> Path:
    """Add or replace claims, and write a measurement's data beside them. Returns the data file.

    Args:
        name: of the measurement. command: that repeats it. seeds: used. rows: JSON data, e.g. values per photo of every method.
    """
    folder = folder or writable_folder()
    origin = {"command": command, "date": date.today().isoformat(), "seeds": seeds, **provenance()}
    path = folder / "claims.json"
    known = {c["id"]: c for c in json.loads(path.read_text())} if path.exists() else {}
    known |= {c.id: {**asdict(c), "provenance": origin} for c in claims}
    path.write_text(json.dumps([known[k] for k in sorted(known)], indent=1) + "\n")
    out = folder / f"{name}.json"
    out.write_text(json.dumps({"provenance": origin, **rows}, indent=1) + "\n")
    return out

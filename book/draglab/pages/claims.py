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

from filelock import FileLock

from dragkit.cache import write_json
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

    Several processes may do so at the same time: one after another, each on top of what the others wrote.

    Args:
        name: of the measurement. command: that repeats it. seeds: used. rows: JSON data, e.g. values per photo of every method.

    Raises:
        ValueError: the claims that are there cannot be read; they are left alone.
    """
    folder = folder or writable_folder()
    origin = {"command": command, "date": date.today().isoformat(), "seeds": seeds, **provenance()}
    new = {c.id: {**asdict(c), "provenance": origin} for c in claims}
    path, out = folder / "claims.json", folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".claims.lock"):
        known = _known(path) | new
        write_json(out, {"provenance": origin, **rows})
        write_json(path, [known[k] for k in sorted(known)])
    return out


def _known(path: Path) -> dict[str, Any]:
    """The claims of a file by their ids; none where there is no file."""
    if not path.exists():
        return {}
    try:
        return {claim["id"]: claim for claim in json.loads(path.read_text())}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); restore it, for example with git checkout, or move it away"
        ) from error

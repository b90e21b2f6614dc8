"""What a page of the book shows besides figures: the source of the functions it runs, tables, recorded measurements."""

from __future__ import annotations

import html
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dragkit.config import DragConfig
from dragkit.measures.intervals import Interval, paired_difference
from draglab.catalogue import MEASUREMENTS
from draglab.pages.claims import results_folder


class Listing:
    """Source code that a notebook shows with colours; made by `source`."""

    def __init__(self, code: str):
        self.code = code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"

    def __repr__(self) -> str:
        return self.code


def source(*objects: Callable[..., Any] | type) -> Listing:
    """The very code that runs, read from the installed package: functions, methods or classes, one after another.

    Raises:
        ValueError: nothing to show. TypeError: an object that has no Python source.
    """
    if not objects:
        raise ValueError("objects is empty; name at least one function or class")
    parts = []
    for item in objects:
        lines, first = inspect.getsourcelines(item)
        owner = inspect.getmodule(item)
        where = (owner.__name__ if owner else "?").replace(".", "/")
        parts.append(f"# {where}.py, line {first}\n{_flush(lines)}")
    return Listing("\n\n\n".join(parts))


def _flush(lines: list[str]) -> str:
    """Source lines with the indentation of the first taken off, so that a method starts at the margin."""
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "".join(line[indent:] if line[:indent].isspace() else line for line in lines).rstrip()


class Table:
    """Rows that a notebook shows as a table; made by `table`."""

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]]):
        self.header, self.rows = list(header), [list(row) for row in rows]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="text-align:left">{html.escape(cell)}</th>' for cell in self.header)
        body = "".join(f"<tr>{self._row(row)}</tr>" for row in self.rows)
        return f'<table class="table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def _row(self, row: list[str]) -> str:
        first = f'<th scope="row" style="text-align:left">{html.escape(row[0])}</th>'
        return first + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in row[1:])

    def __repr__(self) -> str:
        everything = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in everything) for i in range(len(self.header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in everything
        )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table; floats are written with three decimals, everything else as `str` writes it.

    Raises:
        ValueError: a row that is not as long as the header, or no columns.
    """
    if not header:
        raise ValueError("header is empty; a table needs at least one column")
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header {len(header)}: {list(row)}")
    written = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return Table(header, written)


def captions(scores: Iterable[float], distances: Iterable[float]) -> list[str]:
    """What stands under the pictures of a row: similarity to the photo and IR distance to the message."""
    return [f"{score:.2f}, {distance:.3f}" for score, distance in zip(scores, distances, strict=True)]


def changed(config: DragConfig, base: DragConfig) -> dict[str, object]:
    """The settings of `config` that `base` does not have: field -> value in `config`."""
    pairs = zip(config.describe(), base.describe(), strict=True)
    return {name: value for (name, value, _), (_, other, _) in pairs if value != other}


def recorded(name: str, folder: Path | None = None) -> Any:
    """The data of a long run, `book/results/<name>.json`; None where the run has not been made or the book is not here.

    A page must say so visibly when it gets None: `missing(name)` is the sentence.
    """
    try:
        path = (folder or results_folder()) / f"{name}.json"
    except FileNotFoundError:
        return None
    return json.loads(path.read_text()) if path.exists() else None


def missing(name: str) -> str:
    """What a page says where `recorded(name)` is None."""
    verb = "measure" if name in MEASUREMENTS else "sweep"
    return (
        f"Not available: book/results/{name}.json. The measurement has not been recorded here; "
        f"`dragkit {verb} {name.partition('-')[0]}` makes it."
    )


def verdict(id_: str, folder: Path | None = None) -> str:
    """What was measured of a claim, as one sentence; says so where it has not been measured here."""
    known = recorded("claims", folder) or []
    claim = next((claim for claim in known if claim["id"] == id_), None)
    if claim is None:
        return f"Claim {id_}: not measured here yet."
    holds = "holds here" if claim["holds"] else "does not hold here"
    unit = f" {claim['unit']}" if claim["unit"] else ""
    return (
        f"Claim {id_} {holds}: {claim['statement']}. {claim['key']}: {claim['value']:.3f}{unit} "
        f"[{claim['ci_low']:.3f}, {claim['ci_high']:.3f}], n = {claim['n']}."
    )


def origin(result: dict[str, Any]) -> str:
    """One line that says where recorded data come from, and from how many photos where the data are per photo."""
    told = result["provenance"]
    photos = max((len(values) for row in result["rows"].values() for values in _per_photo(row).values()), default=0)
    on = f" on {photos} photos" if photos else ""
    devices = {device for row in result["rows"].values() if isinstance(row, dict) for device in row.get("made_on", [])}
    return (
        f"Recorded by `{told['command']}`{on}, {told['date']}, commit {told['commit']}, "
        f"{', '.join(sorted(devices)) or told['device']}."
    )


def summaries(result: dict[str, Any], metric: str) -> dict[str, tuple[float, float, float]]:
    """Method -> (mean, low, high) of a metric of recorded data, the form that `plots.intervals` takes.

    Raises:
        ValueError: the data do not have that metric.
    """
    told = {name: row[metric] for name, row in result["rows"].items() if metric in row}
    if not told:
        raise ValueError(f"metric is {metric!r}; the recorded rows are {list(result['rows'])} and none has it")
    return {name: (value["mean"], *value["ci"]) for name, value in told.items()}


def difference(rows: Mapping[str, Any], a: str, b: str, metric: str) -> Interval:
    """Mean of `a - b` over the photos of two rows, with its interval."""
    return paired_difference(rows[a]["per_photo"][metric], rows[b]["per_photo"][metric])


def at_block(result: dict[str, Any], at: str) -> dict[str, Any]:
    """Recorded data of one block: its rows ("DRAG, block:6") without the block in their names, and the reference rows."""
    rows = {name: row for name, row in result["rows"].items() if ", block" not in name or name.endswith(f", {at}")}
    return {"rows": {name.removesuffix(f", {at}"): row for name, row in rows.items()}}


def by_turns(result: dict[str, Any], metric: str) -> dict[str, list[list[float]]]:
    """Method -> [turns, means, lows, highs] of a metric, of recorded rows that have a budget in turns ("DRAG, 80 turns")."""
    table: dict[str, list[tuple[float, ...]]] = {}
    for name, row in result["rows"].items():
        if "turns" in row:
            value = row[metric]
            table.setdefault(name.split(",")[0], []).append((row["turns"], value["mean"], *value["ci"]))
    return {method: [list(column) for column in zip(*sorted(rows), strict=True)] for method, rows in table.items()}


def _per_photo(row: Any) -> dict[str, list[float]]:
    return row.get("per_photo", {}) if isinstance(row, dict) else {}

"""A recorded study as a page shows it: where its numbers come from, its figures and tables, or one sentence that it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from matplotlib.figure import Figure

from dragkit.measures.intervals import Interval
from dragkit.measures.metrics import DIRECTION, LABELS
from draglab.pages import pages, plots

P = ParamSpec("P")
T = TypeVar("T")


class Line:
    """A sentence that a notebook shows as prose, and a terminal as text."""

    def __init__(self, text: str):
        self.text = text

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def bullets(sentences: Iterable[str]) -> Line:
    """Sentences one below the other, as a list."""
    return Line("\n".join(f"- {sentence}" for sentence in sentences))


class Study:
    """What a long run measured; made by `study`. A study that was not recorded is False, and shows a sentence in place of a figure.

    Attributes:
        name: of the study. data: the record, `{}` where there is none.
    """

    def __init__(self, name: str, data: dict[str, Any] | None):
        self.name, self.data = name, data or {}

    def __bool__(self) -> bool:
        return bool(self.data)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    @property
    def rows(self) -> dict[str, Any]:
        """label -> row; empty where nothing is recorded."""
        return self.data.get("rows", {})

    @property
    def origin(self) -> Line:
        """Which command measured it, on how many photos, when, on what; or that it is missing."""
        return Line(pages.origin(self.data) if self else pages.missing(self.name))

    def at(self, cut: str) -> Study:
        """The rows of one cut ("block:6"), without the cut in their names, and the reference rows."""
        return Study(self.name, self.data | pages.at_block(self.data, cut) if self else None)

    def show(self, view: Callable[Concatenate[Study, P], T], *args: P.args, **kwargs: P.kwargs) -> T | Line:
        """`view(self, ...)`, or the sentence that the study is missing."""
        return view(self, *args, **kwargs) if self else self.origin

    def intervals(self, metric: str, *, log: bool = False) -> Figure | Line:
        """A dot with its interval per row, of a metric of the record."""
        label = LABELS.get(metric, metric)
        return self.show(lambda s: plots.intervals(pages.summaries(s.data, metric), label, log=log))

    def over_budgets(self, metric: str, levels: Mapping[str, float], *, log_x: bool = False) -> Figure | Line:
        """Curves over the budget in turns, with these horizontal lines."""
        label = LABELS.get(metric, metric)
        return self.show(
            lambda s: plots.over_budgets(pages.by_turns(s.data, metric), ylabel=label, levels=levels, log_x=log_x)
        )

    def attacks(self) -> dict[str, Any]:
        """The rows of attacks: those with a distance of their own, which references lack."""
        return {name: row for name, row in self.rows.items() if "distance" in row}

    def best(self, metric: str) -> str:
        """The attack of the best mean."""
        sign = 1 if DIRECTION[metric] == "lower" else -1
        tried = self.attacks()
        return min(tried, key=lambda name: sign * tried[name][metric]["mean"])

    def difference(self, a: str, b: str, metric: str) -> Interval:
        """Mean of `a - b` over the photos, with its interval."""
        return pages.difference(self.rows, a, b, metric)

    def differences(self, to: str, metric: str, only: tuple[str, ...] | None = None) -> dict[str, Interval]:
        """Every attack minus the row `to`, photo by photo, with intervals."""
        chosen = [name for name in self.attacks() if name != to and (only is None or name in only)]
        return {name: self.difference(name, to, metric) for name in chosen}


def study(name: str, folder: Path | None = None) -> Study:
    """The recorded study `name`, from the book's results when `folder` is None."""
    return Study(name, pages.recorded(name, folder))


def in_words(difference: Interval, metric: str) -> str:
    """What an interval of (this - that) says of this: "better", "worse", "not told apart", or "the same pictures"."""
    if difference.low == difference.high == 0:
        return "the same pictures"
    if difference.low <= 0 <= difference.high:
        return "not told apart"
    return "worse" if (difference.low > 0) == (DIRECTION[metric] == "lower") else "better"


def leaks_in_words(difference: Interval, metric: str) -> str:
    """The same from the defender's side, for whom a better attack "leaks more"."""
    told = in_words(difference, metric)
    return {"better": "leaks more", "worse": "leaks less"}.get(told, told)


def sentences(parts: Iterable[str]) -> Line:
    """Several sentences, each on a line of its own."""
    return Line("\n\n".join(parts))


def signed(interval: Interval, digits: int = 3) -> str:
    """ "+0.012 (0.004 to 0.020)"."""
    return f"{interval.mean:+.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"

"""All studies of defences as one list of points, accuracy against what leaks, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dragkit import zoo
from dragkit.defenses import DEFENCES, parse_spec
from dragkit.defenses.base import Utility
from dragkit.measures.intervals import Interval, paired_difference
from dragkit.measures.metrics import DIRECTION
from draglab.pages import pages
from draglab.studies.defence_study import OPEN
from draglab.studies.nopeek import CONTROL

STUDIES = (
    "defence_noise",
    "defence_tokens",
    "defence_transport",
    "defence_nopeek",
    "defence_disco",
    "defence_randomness",
)

LEAKS = ("ms_ssim", "st_lpips")

TRAINED: Literal["trained"] = "trained"


UTILITIES: tuple[Utility, ...] = ("exact", "approximate", TRAINED)  # a chain is as bad as its worst part


@dataclass(frozen=True)
class Point:
    """One attack on one defence, as a study recorded it.

    Attributes:
        study, label: where it is recorded. defence: name for figures. family: that of the (first) defence, or `OPEN`.
        spec: what the client does to its message, "" where its training is the defence.
        client, server: names in the zoo. method: of the attack. reply: of the attacker, "" for who does not know of the defence.
        queries: messages heard per photo. accuracy: of the server, on the all validation photos.
        leaks: MS-SSIM, ST-LPIPS and "retrieval_top1". per_photo: metric -> values.
    """

    study: str
    label: str
    defence: str
    family: str
    spec: str
    client: str
    server: str
    method: str
    reply: str
    queries: int
    accuracy: Interval
    leaks: Mapping[str, Interval]
    per_photo: Mapping[str, Sequence[float]]

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two points attacks on the same defence."""
        return self.client, self.server, self.spec

    @property
    def adaptive(self) -> bool:
        """Whether the attacker does something about the defence."""
        return bool(self.reply) or (self.method == "inverse" and self.family != OPEN)

    @property
    def control(self) -> bool:
        """Whether it is what a defence is compared with: training without its loss, a trained client without its mask."""
        unmasked = self.family == TRAINED and not self.spec and self.client.removesuffix(f"-{zoo.CLIENT}") in DEFENCES
        return unmasked or self.client.endswith("-lambda0")

    @property
    def server_knows(self) -> str:
        """What the server has to be told beside the message."""
        needs = [DEFENCES[name].server_knows for name, _ in _parts(self.spec)]
        return " and ".join(dict.fromkeys(what for what in needs if what != "nothing")) or "nothing"

    @property
    def utility(self) -> str:
        """ "exact", "approximate" or "trained": what the defence does to the server's answer."""
        kinds: list[Utility] = [DEFENCES[name].utility for name, _ in _parts(self.spec)]
        kinds += [TRAINED] * (self.client != zoo.CLIENT or self.server != self.client)
        return max(kinds, key=UTILITIES.index, default="exact")


# -- what was recorded -------------------------------------------------------------------------------------------------


def gather(folder: Path | None = None) -> list[Point]:
    """Every recorded attack of the studies in a folder (the book's when None); a study that is missing gives none.

    The same attack in several studies counts once: the undefended one is the first row of each. Clients of ablations, which are
    not shipped, stay in their studies, but for NoPeek's control.
    """
    attacks: dict[tuple[Any, ...], Point] = {}
    offered = {*zoo.names(), CONTROL}
    for study in STUDIES:
        for label, row in ((pages.recorded(study, folder) or {}).get("rows") or {}).items():
            if "accuracy" in row and row["client"] in offered:  # references such as the mean image are not attacks
                point = _point(study, label, row)
                attacks.setdefault((*point.key, point.method, point.reply, point.queries), point)
    return list(attacks.values())


def references(folder: Path | None = None) -> dict[str, dict[str, Interval]]:
    """ "prior only" and other pictures that no message made, metric by metric, from the first study that is there."""
    for study in STUDIES:
        if record := pages.recorded(study, folder):
            rows = {label: row for label, row in record["rows"].items() if "accuracy" not in row}
            return {label: {m: _interval(row, m) for m in LEAKS} for label, row in rows.items()}
    return {}


def _interval(row: Mapping[str, Any], metric: str) -> Interval:
    return Interval(row[metric]["mean"], *row[metric]["ci"])


def _point(study: str, label: str, row: Mapping[str, Any]) -> Point:
    client, server, spec = row["client"], row.get("server", row["client"]), row["defence"]
    leaks = {metric: _interval(row, metric) for metric in LEAKS}
    return Point(
        study,
        label,
        _name(client, server, spec),
        _family(client, spec),
        spec,
        client,
        server,
        row["method"],
        row["reply"],
        row["queries"],
        Interval(*row["accuracy"]),
        leaks | {"retrieval_top1": Interval(*row["retrieval_top1"])},
        row["per_photo"],
    )


def _name(client: str, server: str, spec: str) -> str:
    """The spec, or what a client was trained for, e.g. "disco" for the mask "disco" on the client made for it."""
    own = client.removesuffix(f"-{zoo.CLIENT}")
    if client == zoo.CLIENT:
        name = spec or OPEN
    elif not spec:
        name = f"{own}, no mask" if own in DEFENCES else own
    else:
        name = spec if own in DEFENCES else own
    return name if server == client else f"{name}, trained server"


def _family(client: str, spec: str) -> str:
    if client != zoo.CLIENT:
        return TRAINED
    kinds = [DEFENCES[name].family for name, _ in _parts(spec)]
    return kinds[0] if kinds else OPEN


def _parts(spec: str) -> list[tuple[str, float | None]]:
    return parse_spec(spec) if spec else []


# -- what to make of it ------------------------------------------------------------------------------------------------


def undefended(points: Iterable[Point]) -> Point | None:
    """The attack without a defence, to which all others are compared."""
    return next((point for point in points if point.family == OPEN), None)


def unaware(points: Iterable[Point]) -> dict[str, Point]:
    """Defence -> DRAG of an attacker who hears one message and takes it for an undefended one."""
    return {p.defence: p for p in points if p.method == "drag" and not p.reply and p.queries == 1 and p.family != OPEN}


def worst_attack(points: Iterable[Point], queries: int | None = 1) -> dict[str, Point]:
    """Defence -> the strongest attacker tried, aware or not: the lowest mean ST-LPIPS.

    Args:
        queries: counts only attackers who hear at most so many messages of a photo; None counts all.
    """
    worst: dict[str, Point] = {}
    for point in points:
        if point.family == OPEN or (queries is not None and point.queries > queries):
            continue
        known = worst.setdefault(point.defence, point)
        if point.leaks["st_lpips"].mean < known.leaks["st_lpips"].mean:
            worst[point.defence] = point
    return worst


def leakage(point: Point, metric: str = "st_lpips") -> float:
    """How much leaks, larger for more: the metric's mean, negative where a high value means far from the photo."""
    sign = -1 if DIRECTION.get(metric, "higher") == "lower" else 1
    return sign * point.leaks[metric].mean


def frontier(points: Iterable[Point], metric: str = "st_lpips") -> list[Point]:
    """The points that none beats: no other is at least as accurate, leaks no more, and is better in one of the two.

    Means are compared, so two points with overlapping intervals may change places on other photos. In order of accuracy.
    """
    known = list(points)

    def beaten(point: Point) -> bool:
        a, b = point.accuracy.mean, leakage(point, metric)
        others = [(other.accuracy.mean, leakage(other, metric)) for other in known]
        return any(x >= a and y <= b and (x, y) != (a, b) for x, y in others)

    return sorted((p for p in known if not beaten(p)), key=lambda p: (p.accuracy.mean, leakage(p, metric)))


def lost(point: Point, plain: Point) -> Interval:
    """Accuracy lost against no defence. The two rates are taken as independent, so the interval is wider than a paired one."""
    a, b = plain.accuracy, point.accuracy
    mean = a.mean - b.mean
    below = ((a.mean - a.low) ** 2 + (b.high - b.mean) ** 2) ** 0.5
    above = ((a.high - a.mean) ** 2 + (b.mean - b.low) ** 2) ** 0.5
    return Interval(mean, mean - below, mean + above)


def affordable(points: Iterable[Point], plain: Point, budget: float) -> list[Point]:
    """The points that lose at most `budget` of the accuracy (means), the one that leaks least first."""
    return sorted((p for p in points if lost(p, plain).mean <= budget), key=leakage)


def flattery(naive: Point, worst: Point, metric: str = "st_lpips") -> Interval:
    """How much more the strongest attacker gets than the unaware one, photo by photo: positive when they get more.

    Raises:
        ValueError: attacks on different defences, or on different numbers of photos.
    """
    a, b = naive.per_photo[metric], worst.per_photo[metric]
    if naive.key != worst.key or len(a) != len(b):
        raise ValueError(
            f"points are {naive.label!r} and {worst.label!r}; they must be attacks on one defence and photos"
        )
    return paired_difference(a, b) if DIRECTION[metric] == "lower" else paired_difference(b, a)

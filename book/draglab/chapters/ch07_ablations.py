"""Chapter 7: what depth does to two photos, and how the recorded readouts, ablations, sweeps and search are read."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from dragkit.attacks.reconstruction import Reconstruction
from dragkit.measures.intervals import Interval
from draglab.pages import pages, plots
from draglab.pages.study import Line, Study, bullets, in_words, signed

# -- depth -----------------------------------------------------------------------------------------------------------


def depths(
    runs: Mapping[str, Reconstruction], similarity: Mapping[str, Tensor], unit: Mapping[str, float]
) -> pages.Table:
    """A row per cut. unit: cut -> distance between the messages of the two photos there."""
    rows = [
        [at, float(similarity[at].mean()), distance, unit[at], distance / unit[at]]
        for at, distance in _distances(runs).items()
    ]
    return pages.table(["mean of two photos", "MS-SSIM", "IR distance", "between the photos", "relative"], rows)


def what_depth_did(
    runs: Mapping[str, Reconstruction], similarity: Mapping[str, Tensor], unit: Mapping[str, float]
) -> Line:
    """Whether the picture is lost, the message fitted, or both, at block 12 compared with block 3."""
    distance = _distances(runs)
    fell = bool(similarity["block:12"].mean() < similarity["block:3"].mean())
    nearer = distance["block:12"] / unit["block:12"] < distance["block:3"] / unit["block:3"]
    if fell and nearer:
        finding = (
            "The message is easier to fit and the photo harder to find: so it looks if more pictures share a message."
        )
    elif fell:
        finding = "In these units the search itself got harder; whether information is lost too, this run cannot say."
    else:
        finding = "On these two photos depth did no harm at this budget."
    return bullets(
        [
            f"At block 12 the pictures are {'further' if fell else 'no further'} from the photos than at block 3.",
            "In units of another photo's distance, the message is fitted "
            f"{'better' if nearer else 'no better'} at block 12.",
            finding,
        ]
    )


def _distances(runs: Mapping[str, Reconstruction]) -> dict[str, float]:
    return {at: float(run.distance.mean()) for at, run in runs.items()}


def readouts(study: Study) -> Figure | Line:
    """What a linear map reads from the message, block by block."""
    read = {at: tuple(interval) for at, interval in study["linear_readout_ms_ssim"].items()}
    if not read:
        return Line("The recorded run was given its cut by hand, so it holds no linear readout.")
    return plots.intervals(read, "MS-SSIM of a linear readout")


def against_readout(study: Study) -> Line:
    """Whether the attacks get more or less out of the message than a linear map does, at the chosen cut."""
    at, read = study["at"], study["linear_readout_ms_ssim"]
    lines = []
    for method in ("DRAG", "rMLE"):
        score = study.rows[method]["ms_ssim"]
        low, high = score["ci"]
        line = f"{at}: {method} reaches an MS-SSIM of {score['mean']:.3f} ({low:.3f} to {high:.3f})"
        if at not in read:
            lines.append(f"{line}.")
        elif high < read[at][1]:
            lines.append(f"{line}, less than a linear map reads ({read[at][0]:.3f}). It left something in the message.")
        elif low > read[at][2]:
            lines.append(f"{line}, more than a linear map reads ({read[at][0]:.3f}).")
        else:
            lines.append(f"{line}; a linear map reads {read[at][0]:.3f}. Not told apart.")
    return bullets(lines)


# -- one ingredient at a time ----------------------------------------------------------------------------------------


def differences(study: Study) -> Figure:
    """ST-LPIPS of every variant minus DRAG's, photo by photo."""
    gaps = study.differences("DRAG", "st_lpips")
    return plots.intervals({"DRAG": 0.0, **gaps}, "ST-LPIPS minus DRAG's")


def verdicts(study: Study) -> pages.Table:
    """Differences to DRAG in both metrics with their verdicts, one row per variant."""
    header = ["changed", "ST-LPIPS, difference", "by its interval", "MS-SSIM, difference", "by its interval"]
    return pages.table(header, _verdicts(study))


def _verdicts(study: Study) -> list[list[str]]:
    similarity = study.differences("DRAG", "ms_ssim")
    return [
        [name, *_judged(gap, "st_lpips"), *_judged(similarity[name], "ms_ssim")]
        for name, gap in study.differences("DRAG", "st_lpips").items()
    ]


def _judged(gap: Interval, metric: str) -> tuple[str, str]:
    """A difference as a table has it, and what its interval says."""
    return f"{gap.mean:+.3f}", in_words(gap, metric)


def by_both(study: Study) -> Line:
    """Which variants both metrics call worse, better or neither, and how many verdicts chance alone would give."""
    rows = _verdicts(study)
    sets = {
        what: [row[0] for row in rows if row[2] == row[4] == what] for what in ("worse", "better", "not told apart")
    }
    opposed = [row[0] for row in rows if {row[2], row[4]} == {"worse", "better"}]
    return bullets(
        [
            f"Worse than DRAG by both metrics: {_listed(sets['worse'])}.",
            f"Better than DRAG by both metrics: {_listed(sets['better'])}.",
            f"Worse by one and better by the other: {_listed(opposed)}.",
            f"Not told apart from DRAG by either: {_listed(sets['not told apart'])}.",
            f"{len(rows)} comparisons in two metrics: with 95 % intervals, about {0.05 * 2 * len(rows):.0f} of "
            f"{2 * len(rows)} verdicts would come out by chance if no change mattered.",
        ]
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def at_both(study: Study) -> pages.Table | Line:
    """Differences to DRAG in ST-LPIPS and their verdicts at block 6 and at block 12, one row per variant."""
    rows = _at_both(study)
    header = ["changed", "block 6, ST-LPIPS", "by its interval", "block 12, ST-LPIPS", "by its interval"]
    return pages.table(header, rows) if rows else Line("Block 6 has not been recorded here.")


def _at_both(study: Study) -> list[list[str]]:
    if "DRAG, block:6" not in study.rows:
        return []
    middle, deep = (study.at(cut).differences("DRAG", "st_lpips") for cut in ("block:6", "block:12"))
    return [[name, *_judged(gap, "st_lpips"), *_judged(deep[name], "st_lpips")] for name, gap in middle.items()]


def opposed_by_depth(study: Study) -> Line:
    """Which variants are worse at both depths, or worse at one and better at the other."""
    rows = _at_both(study)
    opposed = [row[0] for row in rows if {row[2], row[4]} == {"worse", "better"}]
    twice = [row[0] for row in rows if row[2] == row[4] == "worse"]
    return bullets(
        [
            f"Worse at one depth and better at the other: {_listed(opposed)}.",
            f"Worse at both depths: {_listed(twice)}.",
        ]
    )


def summary(study: Study) -> Line:
    """A sentence per variant with both verdicts."""
    return bullets(
        f"{name}: {by_lpips} by ST-LPIPS ({lpips}), {by_ssim} by MS-SSIM ({ssim})."
        for name, lpips, by_lpips, ssim, by_ssim in _verdicts(study)
    )


# -- how hard and how long to push -----------------------------------------------------------------------------------


def optimum(study: Study) -> Line:
    """At each cut, where the best rate lies, whether it is told from the ends, and what the attacker would choose."""
    return bullets(line for cut in reversed(study["blocks"]) for line in _optimum(cut, study.at(cut)))


def _optimum(cut: str, study: Study) -> list[str]:
    tried, best = list(study.attacks()), study.best("st_lpips")
    ends = study.differences(best, "st_lpips", only=(tried[0], tried[-1]))
    lines = [f"After {cut}. Lowest ST-LPIPS: {best}. Highest MS-SSIM: {study.best('ms_ssim')}."]
    lines += [f"{name} minus {best}: {signed(gap)}, {in_words(gap, 'st_lpips')}." for name, gap in ends.items()]
    if len(ends) == 2 and all(in_words(gap, "st_lpips") == "worse" for gap in ends.values()):
        lines.append("So the optimum lies inside the range, and both ends are worse: the trade-off is there.")
    elif len(ends) == 2:
        lines.append("The best mean lies inside the range, but not both ends are told apart from it.")
    else:
        lines.append("The best rate is the end of the range: this sweep does not bracket an optimum.")
    mean = {name: sum(row["distance"]) / len(row["distance"]) for name, row in study.attacks().items()}
    seen = min(mean, key=lambda name: mean[name])
    lines.append(f"The attacker sees the IR distance only. It is smallest at {seen} ({mean[seen]:.3f}).")
    if seen != best:
        gap = study.difference(seen, best, "st_lpips")
        lines.append(f"Choosing by it costs {signed(gap)} in ST-LPIPS, {in_words(gap, 'st_lpips')}.")
    return lines


def over_time(study: Study) -> Figure | Line:
    """ST-LPIPS of every method over the budget, beside the inverse network's, which needs no time."""
    return study.over_budgets("st_lpips", {"inverse network": study.rows["inverse network"]["st_lpips"]["mean"]})


def against_rivals(study: Study) -> pages.Table:
    """DRAG minus every other method at each budget, in ST-LPIPS."""
    rivals = [method for method in _methods(study) if method != "DRAG"]
    rows = []
    for turns in _budgets(study):
        gaps = [study.difference(f"DRAG, {turns} turns", f"{rival}, {turns} turns", "st_lpips") for rival in rivals]
        seconds = study.rows[f"DRAG, {turns} turns"]["seconds_per_photo"]
        rows.append([turns, f"{seconds:.1f}", *(", ".join(_judged(gap, "st_lpips")) for gap in gaps)])
    return pages.table(["turns", "s per photo", *(f"DRAG - {rival}" for rival in rivals)], rows)


def last_doubling(study: Study) -> Line:
    """Every method against itself with half the largest budget."""
    half, full = _budgets(study)[-2:]
    gaps = {m: study.difference(f"{m}, {full} turns", f"{m}, {half} turns", "st_lpips") for m in _methods(study)}
    return bullets(
        f"{method}, {half} to {full} turns: ST-LPIPS {signed(gap)}, {in_words(gap, 'st_lpips')}."
        for method, gap in gaps.items()
    )


def _methods(study: Study) -> list[str]:
    return list(pages.by_turns(study.data, "st_lpips"))


def _budgets(study: Study) -> list[int]:
    return sorted({row["turns"] for row in study.rows.values() if "turns" in row})


# -- the search ------------------------------------------------------------------------------------------------------


def leaders(study: Study, at: str, shown: int = 5) -> pages.Table:
    """The best settings at one cut, the winner, the published and the worst, each with its difference to the winner."""
    here = study.at(at)
    order = sorted(here.rows, key=lambda name: here.rows[name]["st_lpips"]["mean"])
    winner, published = _winner(here), next(iter(here.rows))  # the published settings were the first trial
    gaps = here.differences(winner, "st_lpips")
    rows = []
    for place, name in enumerate(order):
        if place < shown or name in (winner, published, order[-1]):
            row = here.rows[name]
            lines = ", ".join(_judged(gaps[name], "st_lpips")) if name in gaps else "the winner"
            label = f"{place + 1}. {name}{' (published)' if name == published else ''}"
            rows.append([label, row["st_lpips"]["mean"], row["ms_ssim"]["mean"], lines])
    return pages.table([f"{len(order)} settings at {at}", "ST-LPIPS", "MS-SSIM", "minus the winner"], rows)


def ties(study: Study) -> Line:
    """How many settings are not told apart from the winner, at each cut of the search."""
    lines = []
    for at in ("block:0", "block:12"):
        here = study.at(at)
        gaps = here.differences(_winner(here), "st_lpips")
        close = sum(in_words(gap, "st_lpips") == "not told apart" for gap in gaps.values())
        lines.append(
            f"{at}: of {len(gaps)} other settings, {close} are not told apart from the winner on these photos."
        )
    return bullets(lines)


def _winner(study: Study) -> str:
    return next(name for name, row in study.rows.items() if row["config"] == study["winner"])

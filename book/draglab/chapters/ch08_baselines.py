"""Chapter 8: what each attacker needs, how the short live comparison is read, and the recorded comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dragkit import zoo
from dragkit.attacks import drag, dragpp, glass, image_prior, inverse, rmle
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.measures import metrics
from dragkit.methods import METHODS
from draglab.pages import pages, plots
from draglab.pages.study import Line, Study, bullets, in_words, signed

NEEDS = {
    "inverse": inverse.NEEDS,
    "rmle": rmle.NEEDS,
    "lm": image_prior.NEEDS,
    "glass": glass.NEEDS,
    "glass++": glass.NEEDS_ENCODER,
    "drag": drag.NEEDS,
    "drag++": dragpp.NEEDS,
}
"""Name of a method -> what its module says that the attacker must have."""

BRINGS = {"diffusion": "diffusion model", "network": "inverse network", "gan": "GAN", "encoder": "encoder"}

OURS = "DRAG, our settings"  # a row of the study `published`

Values = Sequence[float] | Tensor


def mean(values: Values) -> float:
    """Mean over the photos."""
    return float(torch.as_tensor(values).mean())


# -- what is at hand -------------------------------------------------------------------------------------------------


def needs() -> pages.Table:
    """A row per method: what the attacker brings, and whether they need the client's weights and public photos."""
    rows = []
    for name, need in NEEDS.items():
        brings = " and ".join(BRINGS[kind] for kind in METHODS[name].uses) or "nothing"
        rows.append(
            [METHODS[name].label, brings, *("yes" if has else "no" for has in (need.weights, need.public_data))]
        )
    return pages.table(["method", "brings", "client's weights", "public photos"], rows)


def inverse_network(at: str) -> Line:
    """How the inverse network of this cut was trained, or that there is none here."""
    name = zoo.inverse_name(zoo.CLIENT, at)
    if name in zoo.names():
        return Line(f"{name} was trained with `{zoo.card(name)['command']}`.")
    return Line(f"Not available: {name}. `dragkit train inverse --client {zoo.CLIENT} --at {at} --ship` makes it.")


def generator() -> Line:
    """How the GAN was trained, or that there is none here."""
    if zoo.GAN in zoo.names():
        return Line(f"The generator is {zoo.GAN}, trained with `{zoo.card(zoo.GAN)['command']}`.")
    return Line(
        f"Not available: {zoo.GAN}. `dragkit train gan --device cuda --ship` makes it, on a GPU. "
        "Until then GLASS has no row on this page."
    )


def label(name: str, config: object) -> str:
    """A method in tables; DRAG with its settings."""
    return METHODS[name].shown(config)


def at_hand(here: Sequence[str], wanted: Sequence[str]) -> Line:
    """Which of the wanted methods have their models here."""
    absent = [METHODS[name].label for name in wanted if name not in here]
    lines = "Methods whose models are at hand: " + ", ".join(METHODS[name].label for name in here) + "."
    return Line(lines + (f" Missing: {', '.join(absent)}." if absent else ""))


# -- two photos ------------------------------------------------------------------------------------------------------


def compared(
    runs: Mapping[str, Reconstruction], distance: Mapping[str, Values], scores: Mapping[str, dict[str, list[float]]]
) -> pages.Table:
    """A row per method and reference: what it cost, and the means of its distance and metrics.

    Args:
        runs: label -> result of an attack. distance, scores: label -> values per photo, of attacks and references.
    """
    rows = []
    for name, values in scores.items():
        run = runs.get(name)
        cost = [run.nfe, f"{run.seconds / len(run.images):.1f}"] if run else ["-", "-"]
        similarity = [mean(values[metric]) for metric in ("ms_ssim", "st_lpips")]
        rows.append([name, *cost, mean(distance[name]), *similarity, f"{mean(values['psnr']):.1f}"])
    header = ["mean of two photos", "iterations", "s per photo", "IR distance", "MS-SSIM", "ST-LPIPS", "PSNR (dB)"]
    return pages.table(header, rows)


def winners(distance: Mapping[str, Values], scores: Mapping[str, Mapping[str, Values]]) -> dict[str, str]:
    """Measure -> label that comes first by it; ST-LPIPS and IR distance are better when low."""
    best = {"IR distance": min(distance, key=lambda name: mean(distance[name]))}
    for metric in ("st_lpips", "ms_ssim", "psnr"):
        means = {name: mean(values[metric]) for name, values in scores.items()}
        choose = max if metrics.DIRECTION[metric] == "higher" else min
        best[metrics.LABELS[metric]] = choose(means, key=means.__getitem__)
    return best


def trap(attacks: Sequence[str], distance: Mapping[str, Values], scores: Mapping[str, dict[str, list[float]]]) -> Line:
    """Whether the attacker's number names the method whose picture is the closest.

    Args:
        attacks: their labels. distance, scores: label -> values per photo, of attacks and references.
    """
    first = winners({name: distance[name] for name in attacks}, {name: scores[name] for name in attacks})
    lines = ["First by each measure: " + ", ".join(f"{measure}: {name}" for measure, name in first.items()) + "."]
    chosen, closest = first["IR distance"], first["ST-LPIPS"]
    if chosen != closest:
        lines.append(
            f"The lowest IR distance is that of {chosen} ({mean(distance[chosen]):.3f}), the lowest ST-LPIPS that of "
            f"{closest} ({mean(scores[closest]['st_lpips']):.3f}, {chosen} has {mean(scores[chosen]['st_lpips']):.3f}). "
            "Choosing by the attacker's number would choose another picture."
        )
    else:
        lines.append(
            f"On these two photos {chosen} comes first by both. The recorded runs below say how often that is so."
        )
    ceiling = mean(distance["decoder ceiling"])
    if under := [name for name in attacks if mean(distance[name]) < ceiling]:
        lines.append(
            "Nearer to the message than the photo itself after the decoder's round trip "
            f"({ceiling:.3f}): {', '.join(under)}."
        )
    ours = next((name for name in attacks if name.startswith("DRAG (")), None)
    if ours and first["PSNR (dB)"] == "inverse network":
        gap = mean(scores["inverse network"]["psnr"]) - mean(scores[ours]["psnr"])
        lines.append(f"The inverse network leads DRAG by {gap:.1f} dB in PSNR. If both were ideal it would be 3.0 dB.")
    return bullets(lines)


def courses(runs: Mapping[str, Reconstruction], points: int = 40) -> dict[str, Tensor]:
    """label -> mean IR distance after each 1/`points` of the iterations, `(points,)`; methods with fewer are left out."""
    traces = {name: run.trace.get("distance", torch.empty(0, 1)).mean(1) for name, run in runs.items()}
    return {
        name: trace[[(i + 1) * len(trace) // points - 1 for i in range(points)]]
        for name, trace in traces.items()
        if len(trace) >= points
    }


# -- recorded comparisons --------------------------------------------------------------------------------------------


def origins(studies: Mapping[str, Study]) -> Line:
    """Where the recorded comparisons of several clients come from. studies: client -> study."""
    return bullets(f"{client}: {study.origin}" for client, study in studies.items())


def _methods(study: Study) -> list[str]:
    """Methods of a recorded comparison, DRAG first; DRAG++ has the next chapter."""
    labels = dict.fromkeys(row["method"] for row in study.rows.values() if "method" in row)
    return ["DRAG", *(name for name in labels if name not in ("DRAG", "DRAG++"))]


def _at(study: Study, cut: str) -> dict[str, dict[str, Any]]:
    """Method -> row at one cut."""
    return {name: study.rows[f"{name}, {cut}"] for name in _methods(study) if f"{name}, {cut}" in study.rows}


def over_depth(study: Study, metric: str) -> Figure:
    """Curves of a metric's mean over the cuts with intervals, one per method, and levels for two references."""
    nothing = {metric: {"mean": float("nan"), "ci": [float("nan")] * 2}}
    lines, bands = {}, {}
    for name in _methods(study):
        cells = [_at(study, cut).get(name, nothing)[metric] for cut in study["blocks"]]
        lines[name] = [cell["mean"] for cell in cells]
        bands[name] = ([cell["ci"][0] for cell in cells], [cell["ci"][1] for cell in cells])
    return plots.curves(
        lines,
        [int(cut.split(":")[1]) for cut in study["blocks"]],
        xlabel="cut after block",
        ylabel=metrics.LABELS[metric],
        bands=bands,
        levels={name: study.rows[name][metric]["mean"] for name in ("prior only", "decoder ceiling")},
        points=True,
    )


def deepest(study: Study, *, calls: bool = False) -> pages.Table:
    """Every method at the deepest cut with what it cost, then the references. calls: cost in calls, not in seconds."""
    cut, cost = study["blocks"][-1], "nfe" if calls else "seconds_per_photo"
    chosen = _at(study, cut) | {name: study.rows[name] for name in ("mean image", "prior only", "decoder ceiling")}
    rows = []
    for name, row in chosen.items():
        spent = f"{row[cost]:,.{0 if calls else 1}f}" if cost in row else "-"
        distance = mean(row["distance"]) if "distance" in row else "-"
        similarity = [row[metric]["mean"] for metric in ("st_lpips", "ms_ssim")]
        rows.append([name, *similarity, f"{row['psnr']['mean']:.1f}", distance, spent])
    header = [cut, "ST-LPIPS", "MS-SSIM", "PSNR (dB)", "IR distance", "calls" if calls else "s per photo"]
    return pages.table(header, rows)


def _duels(study: Study) -> list[list[str]]:
    """DRAG minus each rival in ST-LPIPS at each cut, with the interval and a verdict."""
    rows = []
    for rival in _methods(study)[1:]:
        for cut in study["blocks"]:
            if rival in _at(study, cut):
                gap = study.difference(f"DRAG, {cut}", f"{rival}, {cut}", "st_lpips")
                who = {"better": "DRAG closer", "worse": f"{rival} closer"}.get(in_words(gap, "st_lpips"), "undecided")
                rows.append([rival, cut, f"{gap.mean:+.3f}", f"{gap.low:+.3f} to {gap.high:+.3f}", who])
    return rows


def duels(studies: Mapping[str, Study]) -> pages.Table | Line:
    """DRAG minus each rival, for every client, rival and cut; missing studies are left out."""
    rows = [[client, *row] for client, study in studies.items() if study for row in _duels(study)]
    if not rows:
        return Line("No comparison has been recorded here yet, so there is no verdict.")
    return pages.table(["client", "rival", "cut", "DRAG - rival", "95 % interval", "verdict"], rows)


def victories(studies: Mapping[str, Study]) -> Line:
    """How many comparisons DRAG wins on each client, and which it loses."""
    lines = []
    for client, study in studies.items():
        if study:
            rows = _duels(study)
            lost = [f"{row[0]} at {row[1]}" for row in rows if row[-1] == f"{row[0]} closer"]
            won, undecided = (sum(row[-1] == who for row in rows) for who in ("DRAG closer", "undecided"))
            lines.append(
                f"{client}: DRAG is closer in {won} of {len(rows)} comparisons, the rival in {len(lost)}, "
                f"{undecided} undecided."
            )
            if lost:
                lines.append(f"Where the claim of the paper does not hold at this scale: {', '.join(lost)}.")
    return bullets(lines)


def _podium(studies: Mapping[str, Study]) -> list[list[str]]:
    rows = []
    for client, study in studies.items():
        for cut in study["blocks"] if study else ():
            here = _at(study, cut)
            first = winners(
                {name: row["distance"] for name, row in here.items()},
                {name: row["per_photo"] for name, row in here.items()},
            )
            rows.append([client, cut, *first.values()])
    return rows


def podium(studies: Mapping[str, Study]) -> pages.Table | Line:
    """The method that comes first by each measure, for every client and cut."""
    rows = _podium(studies)
    if not rows:
        return Line("No comparison has been recorded here yet.")
    return pages.table(["client", "cut", "IR distance", "ST-LPIPS", "MS-SSIM", "PSNR"], rows)


def judge(studies: Mapping[str, Study]) -> Line:
    """How often the attacker's number and ST-LPIPS name the same method."""
    rows = _podium(studies)
    if not rows:
        return Line("No comparison has been recorded here yet.")
    wrong = [f"{row[0]}, {row[1]}" for row in rows if row[2] != row[3]]
    lines = [
        "The method of lowest mean IR distance has the lowest mean ST-LPIPS in "
        f"{len(rows) - len(wrong)} of {len(rows)} cases."
    ]
    if wrong:
        lines.append(f"An attacker who lets that number choose among methods chooses badly at: {'; '.join(wrong)}.")
    return bullets(lines)


# -- published budgets and patience ----------------------------------------------------------------------------------


def published_duels(study: Study) -> pages.Table:
    """DRAG minus each rival with the published budgets, at each cut."""
    return pages.table(["rival", "cut", "DRAG - rival", "95 % interval", "verdict"], _duels(study))


def orders(published: Study, seconds: Study) -> Line:
    """Whether the methods come in the same order with the published budgets as for equal seconds, cut by cut."""
    if not seconds:
        return seconds.origin
    lines = []
    for cut in published["blocks"]:
        both = [name for name in _at(published, cut) if f"{name}, {cut}" in seconds.rows]
        long, short = (_order(study, cut, both) for study in (published, seconds))
        same = "the same order" if short == long else "another order"
        lines.append(
            f"{cut}: {', '.join(long)} with the published budgets; {same} than for equal seconds ({', '.join(short)})."
        )
    return bullets(lines)


def _order(study: Study, cut: str, only: Sequence[str]) -> list[str]:
    """Methods at one cut, the lowest mean ST-LPIPS first."""
    return sorted(only, key=lambda name: study.rows[f"{name}, {cut}"]["st_lpips"]["mean"])


def settings_or_time(study: Study) -> Line:
    """DRAG with the settings of this library against DRAG as published and LM, at each cut."""
    words = {"better": "closer", "worse": "farther"}
    lines = []
    for cut in study["blocks"]:
        for rival in ("DRAG", "LM"):
            gap = study.difference(f"{OURS}, {cut}", f"{rival}, {cut}", "st_lpips")
            said = in_words(gap, "st_lpips")
            lines.append(f"{cut}, our settings minus {rival}: {signed(gap)}, {words.get(said, said)}.")
    return bullets(lines)


def over_budgets(study: Study) -> Figure | Line:
    """ST-LPIPS of DRAG and LM over the budget, beside the decoder ceiling."""
    levels = {"decoder ceiling": study.rows["decoder ceiling"]["st_lpips"]["mean"]}
    return study.over_budgets("st_lpips", levels, log_x=True)


def _budgets(study: Study) -> list[int]:
    return sorted({row["turns"] for row in study.rows.values() if "turns" in row})


def patience_duels(study: Study) -> pages.Table:
    """DRAG minus LM at each budget, and how near both are to the message."""
    who = {"better": "DRAG closer", "worse": "LM closer"}
    rows = []
    for turns in _budgets(study):
        names = [f"{method}, {turns} turns" for method in ("DRAG", "LM")]
        gap = study.difference(names[0], names[1], "st_lpips")
        said = who.get(in_words(gap, "st_lpips"), "undecided")
        away = [f"{mean(study.rows[name]['distance']):.4f}" for name in names]
        rows.append([f"{turns:,}", f"{gap.mean:+.3f}", f"{gap.low:+.3f} to {gap.high:+.3f}", said, *away])
    return pages.table(["turns", "DRAG - LM", "95 % interval", "verdict", "IR distance of DRAG", "of LM"], rows)


def overtaken(study: Study) -> Line:
    """The claims at the smallest and the largest budget, and the distance of the photos' own round trips."""
    cut, budgets = study["at"].replace(":", "-"), _budgets(study)
    lines = [pages.verdict(f"lm-overtakes-drag/{cut}/{turns}-turns") for turns in (budgets[0], budgets[-1])]
    ceiling = mean(study.rows["decoder ceiling"]["distance"])
    return bullets([*lines, f"IR distance of the photos' own round trips through the autoencoder: {ceiling:.4f}."])


# -- pixels and retrieval --------------------------------------------------------------------------------------------


def pixel_rates(study: Study) -> Line:
    """Which guidance rate was chosen for the pixel prior, and the claims that compare it with the latent prior."""
    rates = study["rates_on_training_photos"]
    lines = ["ST-LPIPS on training photos: " + ", ".join(f"rate {r}: {value:.3f}" for r, value in rates.items()) + "."]
    tried = sorted(map(float, rates))
    if study["rate"] in (tried[0], tried[-1]):
        lines.append(f"The best rate, {study['rate']}, is the end of the range: another might be better still.")
    lines += [pages.verdict(f"latent-beats-pixels/{cut.replace(':', '-')}") for cut in study["blocks"]]
    return bullets(lines)


def _found_first(study: Study) -> dict[str, tuple[float, float, float]]:
    """Label -> share of photos found at first place, with its interval."""
    return {name: tuple(row["top1"]) for name, row in study.rows.items() if "top1" in row}


def retrieval(study: Study) -> Figure:
    """How often each method's reconstruction finds the photo at first place."""
    return plots.intervals(_found_first(study), "found at first place")


def easiest(study: Study) -> Line:
    """The method that finds its photo most often, beside chance."""
    shares = {name: share for name, share in _found_first(study).items() if name != "photo"}
    best = max(shares, key=lambda name: shares[name][0])
    return Line(f"Found most often: {best}, {shares[best][0]:.0%} of the photos. Chance: one in a thousand, or 0.1 %.")

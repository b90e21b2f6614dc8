"""Chapter 9, DRAG++: its tables, its recorded figures, and the sentences that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from dragkit.attacks.reconstruction import Reconstruction
from dragkit.config import DragConfig
from dragkit.measures import metrics
from dragkit.methods import METHODS
from draglab import tables
from draglab.pages import pages, plots
from draglab.pages.study import Line, Study, in_words, signed

RIVALS = ("DRAG", "inverse network")


def told_apart(
    under_noise: Mapping[str, Sequence[float]],
    strengths: Sequence[float],
    at_strength: Mapping[float, tuple[float, float]],
) -> list[str]:
    """Sentences on the noise that hides a guess's mistakes.

    Args:
        under_noise: two curves of deviations over the strength: guess and photo first, then two different photos.
        strengths: where the curves were taken, rising.
        at_strength: strength -> the two deviations there.
    """
    hidden, lost = (
        next((s for s, d in zip(strengths, line, strict=True) if d < 2), None) for line in under_noise.values()
    )
    lines = []
    if hidden and lost:
        lines.append(
            f"Guess and photo come within two deviations at strength {hidden:.2f}, different photos at {lost:.2f}."
        )
    for s, (mistakes, layout) in at_strength.items():
        lines.append(
            f"strength {s}: {mistakes:.1f} deviations between guess and photo, {layout:.1f} between different photos"
        )
    return lines


def captions(runs: Mapping[str, Reconstruction], similarity: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Label -> a text for under each picture: MS-SSIM to the photo and the attacker's IR distance."""
    return {
        label: [f"{s:.2f}, distance {d:.2f}" for s, d in zip(similarity[label], run.distance, strict=True)]
        for label, run in runs.items()
    }


def compared(
    runs: Mapping[str, Reconstruction],
    photos: Tensor,
    first_t: Mapping[str, int],
    ceiling: tuple[Tensor, Tensor],
    header: str,
) -> pages.Table:
    """What every run reached, as means over the photos.

    Args:
        runs: label -> run. photos: `(n, 3, H, W)`.
        first_t: label -> the timestep at which the run began; runs that are not here take no turns.
        ceiling: images and IR distances of what the decoder makes of the photos' own latents.
        header: of the first column.
    """
    rows = [
        [
            label,
            run.nfe if label in first_t else "-",
            first_t.get(label, "-"),
            *_scored(run.images, run.distance, photos),
        ]
        for label, run in runs.items()
    ]
    rows.append(["decoder ceiling", "-", "-", *_scored(*ceiling, photos)])
    return pages.table([header, "turns", "first t", "IR distance", "MS-SSIM", "ST-LPIPS", "PSNR (dB)"], rows)


def _scored(images: Tensor, distance: Tensor, photos: Tensor) -> list[float | str]:
    score = tables.score(images, photos)
    return [float(distance.mean()), fmean(score["ms_ssim"]), fmean(score["st_lpips"]), f"{fmean(score['psnr']):.1f}"]


def on_strengths(runs: Mapping[str, Reconstruction], photos: Tensor, tried: Sequence[float], turns: int) -> list[str]:
    """Sentences: which strength came closest, whether it improves on its own start, and what guidance had to do with it.

    Args:
        runs: label -> run, with "inverse network", "0.3, no guidance" and "strength <s>" for every strength tried.
        photos: `(n, 3, H, W)`. tried: strengths. turns: of every run.
    """
    blurred = {label: float(metrics.st_lpips(run.images, photos).mean()) for label, run in runs.items()}
    distance = {label: float(run.distance.mean()) for label, run in runs.items()}
    best = min((f"strength {s}" for s in tried), key=lambda label: blurred[label])
    lines = [f"Of the three strengths, {best.split()[1]} has the lowest ST-LPIPS on these photos, with {turns} turns."]
    if best != "strength 0.3":
        lines.append("The published strength is 0.3, with 1,200 turns, for another client, prior and guess.")
    start = blurred["inverse network"]
    gains = "improves" if blurred[best] < start else "does not improve"
    lines.append(f"It {gains} on its own start: ST-LPIPS {start:.3f} for the guess, {blurred[best]:.3f} after it.")
    worse = [str(s) for s in tried if blurred[f"strength {s}"] > start]
    if worse:
        lines.append(f"Worse than the guess they started from: strength {', '.join(worse)}.")
    return lines + _on_guidance(blurred, distance, best)


def _on_guidance(blurred: Mapping[str, float], distance: Mapping[str, float], best: str) -> list[str]:
    """What the message did, by the attackers' own distances."""
    guess, guided, unguided = (distance[label] for label in ("inverse network", "strength 0.3", "0.3, no guidance"))
    lines = [
        f"At strength 0.3 the IR distance is {guided:.3f} with guidance and {unguided:.3f} without; "
        f"the guess had {guess:.3f}."
    ]
    if unguided > guess:
        lines.append(
            "Left to itself the prior paints what the message does not support. The message has to guide the brush."
        )
    if distance[best] < guess:
        both = "than the guess both to the message and to the photo"
        one = "to the message than the guess, and not to the photo"
        lines.append(f"DRAG++ with {best} is nearer {both if blurred[best] < blurred['inverse network'] else one}.")
    return lines


def turns_saved(
    over_turns: Mapping[str, Sequence[float]], counts: Sequence[int], noise: str, guess: float
) -> list[str]:
    """Sentences: how many turns from noise are worth the shortest run from a guess.

    Args:
        over_turns: start -> ST-LPIPS after each of the `counts` turns. noise: the name of the start from noise.
        guess: ST-LPIPS of the guess itself.
    """
    line = over_turns[noise]
    lines = []
    for way, values in over_turns.items():
        if way != noise:
            level = values[0]
            needed = next((count for count, value in zip(counts, line, strict=True) if value <= level), None)
            far = f"{counts[-1]} turns do not ({line[-1]:.3f})" if needed is None else f"it takes {needed}"
            lines.append(f"{way}: {counts[0]} turns reach {level:.3f}. From noise, {far}.")
    overtaken = [count for count, value in zip(counts, line, strict=True) if value <= guess]
    if overtaken:
        return [*lines, f"From noise, DRAG is closer than the guess with {overtaken[0]} turns or more."]
    return [*lines, f"From noise, DRAG does not get as close as the guess, which cost one pass, in {counts[-1]} turns."]


def beside_the_guess(over_turns: Mapping[str, Sequence[float]], guess: float, metric: str, turns: int) -> str:
    """A sentence on the best of the longest runs from the guess, beside the guess itself.

    Args:
        over_turns: start -> the metric after growing numbers of turns, the last of them `turns`. guess: of the guess itself.
    """
    digits = 1 if metric == "psnr" else 3
    higher = metrics.DIRECTION[metric] == "higher"
    ends = {way: values[-1] for way, values in over_turns.items() if way.startswith("from the guess")}
    way = max(ends, key=lambda name: ends[name] if higher else -ends[name])
    verdict = "closer" if (ends[way] > guess) == higher else "no closer"
    return (
        f"{metrics.LABELS[metric]} after {turns} turns {way}: {ends[way]:.{digits}f}, for the guess itself "
        f"{guess:.{digits}f}; {verdict} to the photo."
    )


# -- recorded: where to start ----------------------------------------------------------------------------------------


def by_strength(starts: Study, cut: str, metric: str) -> Figure:
    """Both starts, the guess and flat grey, over the strength at one cut, with levels for noise and for the guess itself."""
    rows, strengths = starts.rows, starts["strengths"]
    ways = {"from the guess": "guess", "from grey": "grey"}
    cells = {name: [rows[f"{way}, strength {s}, {cut}"][metric] for s in strengths] for name, way in ways.items()}
    levels = {"the guess itself": f"the guess itself, {cut}", "from noise": f"noise, {cut}"}
    return plots.curves(
        {name: [cell["mean"] for cell in line] for name, line in cells.items()},
        strengths,
        bands={name: _band(line) for name, line in cells.items()},
        levels={name: rows[label][metric]["mean"] for name, label in levels.items()},
        points=True,
        xlabel="strength",
        ylabel=metrics.LABELS[metric],
    )


def _band(cells: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Lower and upper ends of intervals."""
    return [cell["ci"][0] for cell in cells], [cell["ci"][1] for cell in cells]


def good_or_late(starts: Study) -> list[str]:
    """Sentences, cut by cut: the start of the best strength against noise, its own guess and grey; and a late start alone."""
    lines = []
    for cut in starts["blocks"] if starts else ():
        guesses = {s: f"guess, strength {s}, {cut}" for s in starts["strengths"]}
        nearest = min(guesses, key=lambda s: starts.rows[guesses[s]]["st_lpips"]["mean"])
        lines.append(f"{cut}: of the strengths, {nearest} has the lowest mean ST-LPIPS from the guess.")
        for name in (f"noise, {cut}", f"the guess itself, {cut}", f"grey, strength {nearest}, {cut}"):
            change = starts.difference(guesses[nearest], name, "st_lpips")
            lines.append(f"  minus '{name}': {signed(change)}, {in_words(change, 'st_lpips')}.")
        late = starts.difference(f"grey, strength 0.5, {cut}", f"noise, {cut}", "st_lpips")
        lines.append(
            f"  A late start alone (grey, strength 0.5) minus noise: {signed(late)}, {in_words(late, 'st_lpips')}."
        )
    return lines


def chosen(starts: Study) -> Line:
    """How the strength of this library was chosen."""
    by = ", ".join(f"{s}: {value:.3f}" for s, value in starts["on_training_photos"].items())
    return Line(f"Mean ST-LPIPS on training photos by strength: {by}. Chosen: {starts['chosen']}.")


# -- recorded: beside its rivals, over depth -------------------------------------------------------------------------


def cuts(baselines: Study) -> list[str]:
    """The cuts at which DRAG++ was run; none where nothing is recorded."""
    return [cut for cut in baselines.data.get("blocks", ()) if f"DRAG++, {cut}" in baselines.rows]


def _with_settings(baselines: Study, method: str) -> str:
    """The method's name with the settings of its recorded row: "DRAG (small, k=1)"."""
    lines = baselines.rows[f"{method}, {cuts(baselines)[0]}"]["config"]
    if not lines:
        return method
    settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in lines.items()}
    return METHODS["drag"].shown(DragConfig(**settings))


def over_depth(baselines: Study, metric: str) -> Figure | Line:
    """Means and intervals of DRAG++, DRAG and the inverse network over the depth of the cut, with the reference rows as levels."""
    where, rows = cuts(baselines), baselines.rows
    if not where:
        return Line("DRAG++ has not been recorded on this client.")
    cells = {
        _with_settings(baselines, method): [rows[f"{method}, {cut}"][metric] for cut in where]
        for method in ("DRAG++", *RIVALS)
    }
    return plots.curves(
        {label: [cell["mean"] for cell in line] for label, line in cells.items()},
        [int(cut.split(":")[1]) for cut in where],
        bands={label: _band(line) for label, line in cells.items()},
        levels={row: rows[row][metric]["mean"] for row in ("prior only", "decoder ceiling")},
        points=True,
        xlabel="cut after block",
        ylabel=metrics.LABELS[metric],
    )


def duels(studies: Mapping[str, Study]) -> pages.Table:
    """DRAG++ minus DRAG and minus its own start, photo by photo, at each cut of each client."""
    rows = [
        [client, rival, cut, metrics.LABELS[metric], f"{gap.mean:+.3f}", f"{gap.low:+.3f} to {gap.high:+.3f}", word]
        for client, rival, cut, metric, gap, word in _fought(studies)
    ]
    return pages.table(["client", "rival", "cut", "metric", "DRAG++ - rival", "95 % interval", "DRAG++ is"], rows)


def duels_won(studies: Mapping[str, Study]) -> list[str]:
    """Sentences: at how many cuts DRAG++ is better than each rival."""
    verdicts: dict[tuple[str, str, str], list[str]] = {}
    for client, rival, _, metric, _, word in _fought(studies):
        verdicts.setdefault((client, rival, metrics.LABELS[metric]), []).append(word)
    return [
        f"{client}, {metric}: DRAG++ better than {rival} at {words.count('better')} of {len(words)} cuts, "
        f"{words.count('not told apart')} not told apart."
        for (client, rival, metric), words in verdicts.items()
    ]


def _fought(studies: Mapping[str, Study]) -> list[tuple[Any, ...]]:
    """(client, rival with its settings, cut, metric, interval of the difference, what it says of DRAG++)."""
    out = []
    for client, baselines in studies.items():
        for rival in RIVALS:
            for cut in cuts(baselines):
                for metric in ("st_lpips", "psnr"):
                    gap = baselines.difference(f"DRAG++, {cut}", f"{rival}, {cut}", metric)
                    out.append((client, _with_settings(baselines, rival), cut, metric, gap, in_words(gap, metric)))
    return out

"""Chapter 5: what going back does to a Gaussian, how the same turns compare, and what the recorded runs say."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dragkit import schedule
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.config import DragConfig
from draglab.pages import pages
from draglab.pages.study import Line, Study, bullets, signed

# -- a Gaussian ------------------------------------------------------------------------------------------------------


def gaussian_step(z: Tensor, a_t: float, a_prev: float, noise: Tensor) -> Tensor:
    """A DDIM step with the exact noise prediction for z_0 from N(0, 1), between two values of alpha_bar."""
    sigma = schedule.ddim_sigma(a_t, a_prev)
    eps = (1 - a_t) ** 0.5 * z
    return schedule.ddim_mean(schedule.tweedie(z, eps, a_t), eps, a_prev, sigma) + sigma * noise


def linear(a_t: float, a_prev: float) -> tuple[float, float]:
    """The two factors of `gaussian_step`: that of z, and that of the noise."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return float(gaussian_step(one, a_t, a_prev, zero)), float(gaussian_step(zero, a_t, a_prev, one))


def ends(alpha_bar: Tensor, t: int, num_steps: int) -> tuple[float, float]:
    """alpha_bar at timestep `t` and at the one where a step of a sampler with `num_steps` steps arrives."""
    before = schedule.previous_timestep(t, num_steps)
    return schedule.alpha_bar_at(alpha_bar, t), schedule.alpha_bar_at(alpha_bar, before)


def sampled(a_t: float, a_prev: float, turns: int, count: int, random: torch.Generator) -> list[float]:
    """Variance after each of `turns` turns of the same step, of `count` numbers that are drawn and taken through them."""

    def draw() -> Tensor:
        return torch.randn(count, generator=random, dtype=torch.float64)

    z, variances = draw(), []
    for _ in range(turns):
        z = gaussian_step(z, a_t, a_prev, draw())
        variances.append(float(z.var()))
        z = schedule.renoise(z, draw(), a_t, a_prev)
    return variances


def agreement(calculated: Mapping[str, list[float]], drawn: Mapping[str, list[float]], count: int) -> Line:
    """How far the variances of `count` samples are from the calculated ones, and what these are after 1, 4 and 16 turns."""
    pairs = [pair for label in calculated for pair in zip(drawn[label], calculated[label], strict=True)]
    largest = max(abs(got / expected - 1) / (2 / count) ** 0.5 for got, expected in pairs)
    first = f"Samples and calculation differ by at most {largest:.1f} standard errors, in {len(pairs)} comparisons."
    rest = [
        f"{label}: variance {line[0]:.4f} after one turn, {line[3]:.4f} after four, {line[-1]:.4f} after sixteen"
        for label, line in calculated.items()
    ]
    return bullets([first, *rest])


def memory(kept: Mapping[str, float]) -> Line:
    """What is left of a push after one and after fifteen further turns. kept: label -> share that one turn leaves."""
    return bullets(
        f"{label}: {share:.0%} of a push are left after one more turn, {share**15:.1%} after fifteen"
        for label, share in kept.items()
    )


# -- four photos -----------------------------------------------------------------------------------------------------


def roughness(images: Tensor) -> float:
    """Mean difference of pixels that lie above one another: what smoothing takes away. images: `(B, 3, H, W)`."""
    return float((images[..., 1:, :] - images[..., :-1, :]).abs().mean())


def spent(
    runs: Mapping[str, Reconstruction],
    ways: Mapping[str, DragConfig],
    similarity: Mapping[str, Tensor],
    detail: Mapping[str, float],
) -> pages.Table:
    """A row per way to spend turns: how many, how many at t = 0, where it begins, and what came of it."""
    rows = [
        [
            way,
            run.nfe,
            ways[way].recurrence,
            schedule.ddim_timesteps(ways[way].num_steps)[0],
            float(run.distance.mean()),
            float(similarity[way].mean()),
            detail[way],
        ]
        for way, run in runs.items()
    ]
    return pages.table(
        ["mean of four photos", "turns", "at t = 0", "first t", "IR distance", "MS-SSIM", "detail"], rows
    )


def compared(
    runs: Mapping[str, Reconstruction],
    ways: Mapping[str, DragConfig],
    similarity: Mapping[str, Tensor],
    detail: Mapping[str, float],
) -> Line:
    """Which way was best. Three ways at equal turns, fine steps first; the last has the first one's steps and more turns."""
    first, second, third, long = runs
    distance = {way: float(run.distance.mean()) for way, run in runs.items()}
    best = min((first, second, third), key=lambda way: distance[way])
    lines = [
        f"Equal turns, smallest IR distance: {best}.",
        "At this budget, on these photos, finer steps are the better use of turns than repeating coarse ones."
        if best == first
        else "At this budget, on these photos, repeating coarse steps is worth more than finer ones.",
        "Equal steps, four times the turns: "
        f"closer to the message on {int((runs[long].distance < runs[first].distance).sum())} of 4 photos, "
        f"closer to the photo on {int((similarity[long] > similarity[first]).sum())}.",
    ]
    if detail[third] < detail[first] and detail[second] < detail[first]:
        lines.append("Fewer, longer, repeated steps gave smoother pictures, as the calculation made one expect.")
    idle = [run.trace["distance"][-ways[way].recurrence :] for way, run in runs.items()]
    if all(torch.allclose(last, last[:1].expand_as(last), atol=1e-3) for last in idle):
        lines.append(
            "In every run the turns at t = 0 changed nothing: there is no noise left to go up to, or to steer."
        )
    return bullets(lines)


def thirds(within: Tensor) -> dict[str, Tensor]:
    """Change of the distance from a step's first turn `(turns,)`, by part of the way. within: distances `(steps, turns)`."""
    parts = zip(("strong noise", "medium noise", "weak noise"), within.tensor_split(3), strict=True)
    return {part: (steps - steps[:, :1]).mean(0) for part, steps in parts}


def progress(within: Tensor, single: Tensor) -> Line:
    """Whether the distance falls within steps or between them.

    Args:
        within: distances `(steps, turns)`. single: those of an attack with one turn at each of the same steps, `(steps,)`.
    """
    inside = float((within[:, -1] - within[:, 0]).mean())
    across = float((within[1:, 0] - within[:-1, 0]).mean())
    if inside >= 0:
        finding = "The distance does not fall within a step. What lowers it is going on to the next one."
    elif inside > across / 2:
        finding = "The distance falls within a step, but most of the progress comes with going on to the next one."
    else:
        finding = "Most of the progress is made within steps."
    same = float((within[:, -1] - single).mean())
    return bullets(
        [
            f"From the first to the fourth turn of a step: {inside:+.4f} on average. From step to step: {across:+.4f}.",
            finding,
            f"At the same timestep, k = 4 after its fourth turn minus k = 1: {same:+.3f} in IR distance, mean over the steps.",
        ]
    )


def memory_reset(kept: Reconstruction, reset: Reconstruction) -> Line:
    """What resetting Adam at every step changes, on four photos."""
    gap = float(reset.distance.mean() - kept.distance.mean())
    better = int((reset.distance < kept.distance).sum())
    if abs(gap) < 0.03:
        return Line(
            f"On these photos it makes little difference: {gap:+.3f} in IR distance with the reset, closer on {better} of 4."
        )
    return Line(f"The reset changes the mean IR distance by {gap:+.3f}; it is closer on {better} of 4 photos.")


def window(change: Mapping[str, Tensor]) -> Line:
    """Where further turns lower the distance, if anywhere. change: what `thirds` gives."""
    last = {part: float(line[-1]) for part, line in change.items()}
    lines = (
        "Change of IR distance by three further turns: " + ", ".join(f"{p} {v:+.3f}" for p, v in last.items()) + ". "
    )
    if min(last.values()) < 0:
        return Line(
            f"{lines}If a window is anywhere, by this number it is at {min(last, key=lambda part: last[part])}."
        )
    return Line(f"{lines}By this number there is no window: further turns lower the distance nowhere, at this rate.")


# -- recorded --------------------------------------------------------------------------------------------------------


def equal_steps(study: Study) -> Line:
    """Sixteen turns per step against one: what the attacker sees and what the pictures are worth."""
    one, sixteen = study.rows["k=1"], study.rows["k=16"]
    few, many = torch.tensor(one["distance"]), torch.tensor(sixteen["distance"])
    lines = [
        f"Final IR distance: {few.mean():.3f} with k = 1, {many.mean():.3f} with k = 16.",
        f"Lower with k = 16 on {int((many < few).sum())} of {len(few)} photos. "
        f"PSNR: {one['psnr']['mean']:.1f} and {sixteen['psnr']['mean']:.1f} dB.",
    ]
    if many.mean() >= few.mean() and sixteen["ms_ssim"]["mean"] > one["ms_ssim"]["mean"]:
        lines.append(
            "The pictures are closer to the photos although the messages are not: the attacker's number did not see the gain."
        )
    return bullets(lines)


def best_recurrence(study: Study) -> Line:
    """The best number of turns per step at each cut, and whether going back pays at equal turns."""
    return bullets(line for cut in reversed(study["blocks"]) for line in _at_cut(cut, study.at(cut)))


def _at_cut(cut: str, study: Study) -> list[str]:
    lines = []
    for kind in ("equal turns", "equal steps"):
        scores = {name.split(",")[0]: row["ms_ssim"]["mean"] for name, row in study.rows.items() if name.endswith(kind)}
        best = max(scores, key=lambda k: scores[k])
        lines.append(f"{cut}, {kind}: the highest mean MS-SSIM is that of {best}: {scores[best]:.3f}.")
    gap = study.difference("k=16, equal turns", "k=1, equal turns", "ms_ssim")
    lines.append(f"{cut}, k = 16 minus k = 1 at equal turns: {signed(gap)}.")
    if gap.high < 0:
        lines.append(
            "At this scale and budget, turns spent on going back are turns lost: the claim of the paper does not hold here."
        )
    elif gap.low > 0:
        lines.append("Going back is worth more than finer steps: the claim of the paper holds here.")
    return lines

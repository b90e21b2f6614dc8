"""What each ingredient of DRAG is worth: one changed at a time, recurrence, guidance rate, budget."""

from __future__ import annotations

from pathlib import Path

from dragkit.config import DragConfig
from draglab.cases import Case
from draglab.pages import claims
from draglab.pages.pages import difference
from draglab.studies.budget import FAST
from draglab.studies.first_checks import PAPER, SEEDS
from draglab.tables import Rows, claim, compare, gap

CUTS = ("block:6", "block:12")  # claims are about the last one


def _at_every_block(name: str, settings: dict[str, DragConfig], at: tuple[str, ...], n: int) -> Rows:
    """Rows "<label>, <block>", and the reference rows."""
    rows: Rows = {}
    for cut in at:
        cases = {f"{label}, {cut}": Case(config, cut, n=n, **FAST) for label, config in settings.items()}
        at_cut, _ = compare(f"{name}-{cut.replace(':', '-')}", cases)
        rows |= {label: row | {"at": cut} for label, row in at_cut.items()}
    return rows


def ablations(turns: int = 48, n: int = 32, at: tuple[str, ...] = CUTS, folder: Path | None = None) -> Path:
    """DRAG with one ingredient changed at a time, the same number of turns."""
    base = DragConfig.small(turns)
    changed = {
        "DRAG": base,
        "no Tweedie": base.with_(tweedie=False),
        "no Adam": base.with_(smoothing="none"),
        "1 turn per step": base.with_(recurrence=1, num_steps=turns),
        "4 turns per step": base.with_(recurrence=4, num_steps=turns // 4),
        "Adam as published": base.with_(betas=(0.9, 0.999)),
        "gradients clipped to 0.02" if base.clip is None else "no clipping": base.with_(
            clip=0.02 if base.clip is None else None
        ),
        "published rate": base.with_(guidance_rate=0.2),
        "slerp": base.with_(interpolation="slerp"),
        "DPS": base.with_(step="dps", guidance_rate=0.5),
        "UGD": base.with_(step="ugd", guidance_rate=2.0),
        "MPGD": base.with_(step="mpgd", guidance_rate=1.0),
        "decode the last latent": base.with_(final_tweedie=False),
        "published settings": DragConfig(num_steps=turns // 4, recurrence=4),
    }
    rows = _at_every_block("ablations", changed, at, n)
    last, verdicts = at[-1], []
    for id_, label, statement in (
        ("tweedie-needed", "no Tweedie", "Without Tweedie's estimate the reconstruction is further from the photo"),
        ("adam-helps", "no Adam", "Without Adam's smoothing the reconstruction is further from the photo"),
    ):
        verdicts.append(
            gap(
                id_,
                f"{statement} (in-house ViT, {last}, {turns} turns)",
                rows,
                f"{label}, {last}",
                f"DRAG, {last}",
                "st_lpips",
                1,
                source=f"{PAPER}, ablation",
                notebook="07_ablations",
            )
        )
    command = f"dragkit sweep ablations --turns {turns} --n {n} --at {','.join(at)}"
    return claims.write("ablations", command, SEEDS, verdicts, {"turns": turns, "rows": rows}, folder)


def recurrence_curve(
    turns: int = 96, steps: int = 10, n: int = 32, at: tuple[str, ...] = CUTS, folder: Path | None = None
) -> Path:
    """k = 1 ... 16 at the same number of turns (fewer steps), and at the same number of steps (more turns)."""
    ks = (1, 2, 4, 8, 16)
    base = DragConfig.small(turns)
    settings = {f"k={k}, equal turns": base.with_(num_steps=turns // k, recurrence=k) for k in ks}
    settings |= {f"k={k}, equal steps": base.with_(num_steps=steps, recurrence=k) for k in ks}
    rows, last = _at_every_block("recurrence-curve", settings, at, n), at[-1]
    best = max(ks, key=lambda k: rows[f"k={k}, equal turns, {last}"]["ms_ssim"]["mean"])
    verdict = gap(
        "recurrence-curve",
        f"At {last} with the same {turns} turns, 16 turns per step give a higher MS-SSIM than 1 (best mean: k={best})",
        rows,
        f"k=16, equal turns, {last}",
        f"k=1, equal turns, {last}",
        "ms_ssim",
        1,
        source=f"{PAPER}, ablation",
        notebook="05_recurrence",
    )
    command = f"dragkit sweep recurrence_curve --turns {turns} --n {n} --at {','.join(at)}"
    extra = {"turns": turns, "steps": steps, "blocks": list(at), "rows": rows}
    return claims.write("recurrence_curve", command, SEEDS, [verdict], extra, folder)


def rates(turns: int = 48, n: int = 32, at: tuple[str, ...] = CUTS, folder: Path | None = None) -> Path:
    """Guidance rate: too low ignores the message, too high leaves the prior."""
    chosen = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
    base = DragConfig.small(turns)
    settings = {f"rate {r}": base.with_(guidance_rate=r) for r in chosen}
    rows, last = _at_every_block("rates", settings, at, n), at[-1]
    best = min(chosen, key=lambda r: rows[f"rate {r}, {last}"]["st_lpips"]["mean"])
    inside = chosen[0] < best < chosen[-1]
    gaps = [difference(rows, f"rate {r}, {last}", f"rate {best}, {last}", "st_lpips") for r in (chosen[0], chosen[-1])]
    worst = min(gaps, key=lambda gap: gap.low)
    verdict = claim(
        "guidance-rate-tradeoff",
        f"At {last} the guidance rate has an optimum inside the range: ST-LPIPS is lowest at {best} and higher at "
        f"{chosen[0]} and {chosen[-1]} (value: the smaller of the two differences)",
        worst,
        n,
        inside and worst.low > 0,
        source=f"{PAPER}, failure signatures",
        key="st_lpips difference",
        notebook="07_ablations",
    )
    command = f"dragkit sweep rates --turns {turns} --n {n} --at {','.join(at)}"
    return claims.write("rates", command, SEEDS, [verdict], {"turns": turns, "blocks": list(at), "rows": rows}, folder)

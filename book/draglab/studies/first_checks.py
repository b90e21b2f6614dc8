"""The first experiments of the book: does the attack work at all, does self-recurrence help, what becomes of it in deep layers?

Each function runs its cases (resumably), compares methods on the same photos, and writes claims and per-photo data. Settings were
chosen on training photos; what is reported is measured on validation photos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dragkit import zoo
from dragkit.attacks.rmle import RmleConfig
from dragkit.config import DragConfig
from dragkit.measures import intervals
from draglab.cases import Case
from draglab.linear_readout import deepest_readable
from draglab.pages import claims
from draglab.tables import claim, compare, gap

PAPER = "arXiv 2509.11724"

SEEDS = [0, 3407]  # of the choice of photos, and of the attacks


def overfit(n: int = 16, folder: Path | None = None) -> Path:
    """Cut at the embeddings: nothing but a linear map hides the photo, so the published settings must rebuild it."""
    return _overfit("overfit", "overfit-embeddings", "the published settings", DragConfig.paper(), n, folder)


def overfit_small(n: int = 16, turns: int = 1000, folder: Path | None = None) -> Path:
    """The same with the settings that were chosen for the small prior, on training photos, and a quarter of the turns."""
    name = f"{turns} turns of the settings chosen for the small prior"
    return _overfit("overfit_small", "overfit-embeddings-small", name, DragConfig.small(turns), n, folder)


def _overfit(name: str, id_: str, settings: str, config: DragConfig, n: int, folder: Path | None) -> Path:
    rows, _ = compare(name, {"DRAG": Case(config, "block:0", n=n)})
    reached, possible = (rows[label]["per_photo"]["ms_ssim"] for label in ("DRAG", "decoder ceiling"))
    against_photo = rows["decoder ceiling"]["ms_ssim"]["mean"] >= 0.95  # below that no decoded latent could reach 0.95
    values = reached if against_photo else [a / b for a, b in zip(reached, possible, strict=True)]
    target, of = (0.95, "MS-SSIM against the photo") if against_photo else (0.97, "MS-SSIM, share of decoder ceiling")
    interval = intervals.bootstrap_ci(values)
    verdict = claim(
        id_,
        f"At the embeddings, DRAG with {settings} rebuilds the photo ({of} above {target})",
        interval,
        n,
        interval.mean > target,
        source=f"{PAPER}, first experiments",
        key="ms_ssim" if against_photo else "ms_ssim / ceiling",
        notebook="06_drag",
    )
    command = f"dragkit measure {name} --n {n}"
    return claims.write(name, command, SEEDS, [verdict], {"config": vars(config), "rows": rows}, folder)


def recurrence(n: int = 32, steps: int = 20, folder: Path | None = None) -> Path:
    """Block 12, equal steps: does going back to the same timestep sixteen times help?"""
    cases = {f"k={k}": Case(DragConfig(num_steps=steps, recurrence=k), "block:12", n=n) for k in (1, 16)}
    rows, _ = compare("recurrence", cases)
    verdict = gap(
        "recurrence-k16-vs-k1",
        f"At block 12, 16 turns per step give a higher MS-SSIM than 1 with the same {steps} steps",
        rows,
        "k=16",
        "k=1",
        "ms_ssim",
        1,
        source=f"{PAPER}, first experiments",
        notebook="03_tweedie",
    )
    command = f"dragkit measure recurrence --n {n} --steps {steps}"
    return claims.write("recurrence", command, SEEDS, [verdict], {"num_steps": steps, "rows": rows}, folder)


def shuffle(n: int = 32, config: DragConfig | None = None, folder: Path | None = None) -> Path:
    """Block 6: the same attack on tokens in order and on tokens in random order."""
    config = config or DragConfig(num_steps=25, recurrence=2)
    cases = {"plain": Case(config, "block:6", n=n), "shuffled": Case(config, "block:6", n=n, defence="shuffle")}
    rows, _ = compare("shuffle", cases)
    verdict = gap(
        "shuffle-defeats-plain-attack",
        "Shuffling the patch tokens before they are sent lowers the MS-SSIM of an attack that does not know of it",
        rows,
        "shuffled",
        "plain",
        "ms_ssim",
        -1,
        source=f"{PAPER}, section 5.5",
        notebook="01_split_inference",
    )
    command = f"dragkit measure shuffle --n {n}"
    return claims.write("shuffle", command, SEEDS, [verdict], {"config": vars(config), "rows": rows}, folder)


def deep(n: int = 32, at: str = "", iterations: int = 300, folder: Path | None = None) -> Path:
    """The real backbone, deep: DRAG (with the small prior's settings, and with the published ones) against rMLE, equal iterations.

    `at` is by default the deepest block at which the IR still determines the photo (`readout`), judged on training photos.
    """
    read: dict[str, intervals.Interval] = {}
    if not at:
        at, read = deepest_readable(zoo.WILD_CLIENT)
    settings = {
        "DRAG": DragConfig.small(iterations),
        "DRAG, published settings": DragConfig(num_steps=iterations // 4, recurrence=4),
        "rMLE": RmleConfig(iterations=iterations),
    }
    common: dict[str, Any] = {"client": zoo.WILD_CLIENT, "n": n, "precision": "bfloat16"}
    rows, _ = compare("deep", {label: Case(config, at, **common) for label, config in settings.items()})
    verdict = gap(
        "drag-vs-rmle-deep",
        f"On the real ViT-S at {at}, DRAG has a lower ST-LPIPS to the photo than rMLE at {iterations} iterations each",
        rows,
        "DRAG",
        "rMLE",
        "st_lpips",
        -1,
        source=f"{PAPER}, main comparison",
        notebook="00_quickstart",
    )
    command = f"dragkit measure deep --n {n} --at {at} --iterations {iterations}"
    extra = {"at": at, "iterations": iterations, "linear_readout_ms_ssim": read, "rows": rows}
    return claims.write("deep", command, SEEDS, [verdict], extra, folder)

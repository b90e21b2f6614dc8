"""Comparisons of attacks (`dragkit sweep NAME`): all methods over depth, each ingredient of DRAG, recurrence, rate, budget.

All run on the same validation photos and are resumable. Settings were chosen on training photos (`dragkit sweep search`). Budgets
are equal in seconds, not in iterations: what an iteration costs is timed side by side first, and the iterations follow from that.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dragkit import claims, data, zoo
from dragkit.attacks import DragConfig, LikelihoodConfig, RmleConfig
from dragkit.attacks.glass import GlassConfig
from dragkit.attacks.inverse import InverseConfig
from dragkit.claims import Claim
from dragkit.comparison import Rows, claim, compare, difference, result_row
from dragkit.embedding import independent_embedding
from dragkit.experiment import Case, run
from dragkit.identification import Gallery, identify
from dragkit.measurements import PAPER, SEEDS
from dragkit.methods import METHODS
from dragkit.metrics import Interval
from dragkit.probe import class_agreement, independent_classifier, rate
from dragkit.store import remember

BLOCKS = ("block:0", "block:3", "block:6", "block:9", "block:12")
FAST: dict[str, Any] = {"precision": "bfloat16"}  # networks; see `Case`


# -- equal seconds ---------------------------------------------------------------------------------------------------


def seconds_per_iteration(client: str, at: str, methods: list[str], rounds: int = 3) -> dict[str, float]:
    """Seconds per photo and iteration of each method, timed in turns on 16 training photos; kept in the store.

    Machines are noisy and busy: only ratios between methods are to be trusted.
    """
    photos, _, _ = data.pick("train", 16)
    spec = {"timing": 2, "client": client, "at": at, "methods": methods, "threads": torch.get_num_threads()}

    def work() -> dict[str, torch.Tensor]:
        cut = zoo.load_client(client, at)
        known = Case(DragConfig.ci(), at, client=client).knowledge()
        with torch.no_grad():
            h = cut(photos)
        times: dict[str, list[float]] = {name: [] for name in methods}
        for i, name in itertools.product(range(rounds + 1), methods):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                METHODS[name].run(h, cut, known, _with_iterations(name, 6), 0)
            if i > 0:  # the first round loads and warms up
                times[name].append((time.perf_counter() - started) / 6 / len(photos))
        return {name: torch.tensor(min(v), dtype=torch.float64) for name, v in times.items()}

    return {name: float(v) for name, v in remember(data.cache_dir() / "results", spec, work).items()}


def _with_iterations(name: str, iterations: int) -> Any:
    """Settings of a method for this many iterations per photo."""
    if name == "drag":
        return DragConfig.small(iterations)
    if name == "drag++":
        return DragConfig.small_plus(iterations)
    if name == "rmle":
        return RmleConfig(iterations=iterations)
    if name == "lm":
        return LikelihoodConfig.fast().with_(iterations=iterations)
    if name == "glass":
        return GlassConfig.small(iterations)
    return InverseConfig()


def equal_seconds(client: str, at: str, methods: list[str], turns: int) -> dict[str, Any]:
    """Settings of each method for the time that DRAG needs for `turns` turns."""
    iterative = [name for name in methods if name != "inverse"]
    cost = seconds_per_iteration(client, at, iterative)
    budget = turns * cost["drag"]
    return {name: _with_iterations(name, max(1, round(budget / cost.get(name, budget)))) for name in methods}


# -- all methods over depth --------------------------------------------------------------------------------------------


def baselines(
    client: str = zoo.CLIENT,
    turns: int = 160,
    n: int = 32,
    blocks: tuple[str, ...] = BLOCKS,
    folder: Path | None = None,
) -> Path:
    """Every method whose knowledge is in the zoo, at every block, for the seconds that DRAG needs for `turns` turns."""
    rows: Rows = {}
    short = "vit" if client == zoo.CLIENT else "focus"
    for at in blocks:
        cases = _equal_cases(client, at, turns, n)
        found, _ = compare(f"baselines-{short}-{at.replace(':', '-')}", cases)
        for label, case in cases.items():
            found[label] |= {"method": METHODS[case.name].label, "at": at, "config": vars(case.config)}
        rows |= found
    made = [c for name in ("rmle", "lm", "glass", "inverse") for c in _beats(rows, name, client, blocks, n)]
    made += _plus_improves(rows, client, blocks, n)
    command = f"dragkit sweep baselines --client {client} --turns {turns} --n {n}"
    told = {"client": client, "turns": turns, "blocks": list(blocks), "rows": rows}
    return claims.write(f"baselines-{short}", command, SEEDS, made, told, folder)


def _equal_cases(client: str, at: str, turns: int, n: int) -> dict[str, Case]:
    """Every available method at one cut, for the same time: "DRAG, block:9" -> case."""
    settings = equal_seconds(client, at, available(client, at), turns)
    return {
        f"{METHODS[name].label}, {at}": Case(config, at, client=client, method=name, n=n, **FAST)
        for name, config in settings.items()
    }


def retrieval(
    client: str = zoo.CLIENT, turns: int = 100, n: int = 32, at: str = "block:9", folder: Path | None = None
) -> Path:
    """Does a reconstruction single its photo out among 1,000? Looked for by a network that is not the victim, and by class."""
    cases = _equal_cases(client, at, turns, n)
    _, images = compare(f"retrieval-{at.replace(':', '-')}", cases)
    gallery = Gallery.build(n, seed=next(iter(cases.values())).seed)
    look, name_class = independent_embedding(client), independent_classifier(client)
    features = look(gallery.photos)
    rows: Rows = {}
    for label, shown in images.items():
        found = identify(shown, gallery, look, features)
        rows[label] = {
            "top1": list(found["gallery"].top1),
            "top5": list(found["gallery"].top5),
            "mrr": list(found["gallery"].mrr),
            "same_class_top1": list(found["same class"].top1),
            "class_agreement": list(rate(class_agreement(shown, images["photo"], name_class))),
            "ranks": found["gallery"].ranks.tolist(),
        }
    top1 = Interval(*rows[f"DRAG, {at}"]["top1"])
    chance = 1 / len(gallery.photos)
    made = claim(
        "retrieval-top1",
        f"From {at} of {client}, DRAG's picture is nearer to its photo than to all others of {len(gallery.photos)}, in the eyes of "
        f"an independent network, more often than by chance ({chance:.3f})",
        top1,
        n,
        top1.low > chance,
        source="dragkit",
        key="top-1 rate",
        notebook="08_baselines",
    )
    command = f"dragkit sweep retrieval --client {client} --turns {turns} --n {n}"
    told = {"client": client, "at": at, "gallery": len(gallery.photos), "embedding": look.name, "rows": rows}
    return claims.write("retrieval", command, SEEDS, [made], told, folder)


def available(client: str, at: str) -> list[str]:
    """The methods whose models are shipped for this client and cut."""
    shipped = zoo.names()
    known = Case(DragConfig.ci(), at, client=client).knowledge()
    return [name for name, m in METHODS.items() if all(model in shipped for model in known.names(m.uses))]


def _beats(rows: Rows, rival: str, client: str, blocks: tuple[str, ...], n: int) -> list[Claim]:
    """At each block: is DRAG's ST-LPIPS lower than the rival's?"""
    made = []
    for at in blocks:
        ours, theirs = f"DRAG, {at}", f"{METHODS[rival].label}, {at}"
        if theirs not in rows:
            continue
        found = difference(rows, ours, theirs, "st_lpips")
        made.append(
            claim(
                f"drag-beats-{rival}/{client}/{at.replace(':', '-')}",
                f"On {client} at {at}, DRAG has a lower ST-LPIPS than {METHODS[rival].label} in the same time",
                found,
                n,
                found.high < 0,
                source=f"{PAPER}, main comparison",
                key="st_lpips difference",
                notebook="08_baselines",
            )
        )
    return made


def _plus_improves(rows: Rows, client: str, blocks: tuple[str, ...], n: int) -> list[Claim]:
    made = []
    for at in blocks:
        if f"DRAG++, {at}" not in rows:
            continue
        found = difference(rows, f"DRAG++, {at}", f"DRAG, {at}", "st_lpips")
        made.append(
            claim(
                f"dragpp-improves/{client}/{at.replace(':', '-')}",
                f"On {client} at {at}, starting from the inverse network's answer lowers DRAG's ST-LPIPS in the same time",
                found,
                n,
                found.high < 0,
                source=f"{PAPER}, DRAG++",
                key="st_lpips difference",
                notebook="09_dragpp",
            )
        )
    return made


# -- the ingredients of DRAG -------------------------------------------------------------------------------------------


def ablations(
    turns: int = 100, n: int = 32, blocks: tuple[str, ...] = ("block:12",), folder: Path | None = None
) -> Path:
    """DRAG with one ingredient changed at a time, the same number of turns."""
    base = DragConfig.small(turns)
    steps = turns // base.recurrence
    changed = {
        "DRAG": base,
        "no Tweedie": base.with_(tweedie=False),
        "no Adam": base.with_(smoothing="none"),
        "no recurrence": base.with_(recurrence=1, num_steps=turns),
        "Adam as published": base.with_(betas=(0.9, 0.999)),
        "no clipping": base.with_(clip=None),
        "slerp": base.with_(interpolation="slerp"),
        "DPS": base.with_(step="dps", guidance_rate=0.02),
        "UGD": base.with_(step="ugd", guidance_rate=0.5),
        "MPGD": base.with_(step="mpgd", guidance_rate=0.02),
        "decode Tweedie's estimate": base.with_(final_tweedie=True),
    }
    rows: Rows = {}
    for at in blocks:
        cases = {f"{label}, {at}": Case(config, at, n=n, **FAST) for label, config in changed.items()}
        found, _ = compare(f"ablations-{at.replace(':', '-')}", cases)
        rows |= {label: row | {"at": at} for label, row in found.items()}
    at, made = blocks[-1], []
    for id_, label, statement in (
        ("tweedie-needed", "no Tweedie", "Without Tweedie's estimate the reconstruction is further from the photo"),
        ("adam-helps", "no Adam", "Without Adam's smoothing the reconstruction is further from the photo"),
    ):
        found_difference = difference(rows, f"{label}, {at}", f"DRAG, {at}", "st_lpips")
        made.append(
            claim(
                id_,
                f"{statement} (in-house ViT, {at}, {steps} steps of {base.recurrence} turns)",
                found_difference,
                n,
                found_difference.low > 0,
                source=f"{PAPER}, ablation",
                key="st_lpips difference",
                notebook="07_ablations",
            )
        )
    command = f"dragkit sweep ablations --turns {turns} --n {n}"
    return claims.write("ablations", command, SEEDS, made, {"turns": turns, "rows": rows}, folder)


def recurrence_curve(
    turns: int = 160, steps: int = 10, n: int = 32, at: str = "block:12", folder: Path | None = None
) -> Path:
    """k = 1 ... 16 at the same number of turns (fewer steps), and at the same number of steps (more turns)."""
    ks = (1, 2, 4, 8, 16)
    base = DragConfig.small(turns)
    cases = {
        f"k={k}, equal turns": Case(base.with_(num_steps=turns // k, recurrence=k), at, n=n, **FAST) for k in ks
    } | {f"k={k}, equal steps": Case(base.with_(num_steps=steps, recurrence=k), at, n=n, **FAST) for k in ks}
    rows, _ = compare("recurrence-curve", cases)
    best = max(ks, key=lambda k: rows[f"k={k}, equal turns"]["ms_ssim"]["mean"])
    found = difference(rows, "k=16, equal turns", "k=1, equal turns", "ms_ssim")
    made = claim(
        "recurrence-curve",
        f"At {at} with the same {turns} turns, 16 turns per step give a higher MS-SSIM than 1 (best mean: k={best})",
        found,
        n,
        found.low > 0,
        source=f"{PAPER}, ablation",
        key="ms_ssim difference",
        notebook="05_recurrence",
    )
    command = f"dragkit sweep recurrence_curve --turns {turns} --n {n}"
    told = {"turns": turns, "steps": steps, "at": at, "rows": rows}
    return claims.write("recurrence_curve", command, SEEDS, [made], told, folder)


def rates(turns: int = 100, n: int = 32, at: str = "block:12", folder: Path | None = None) -> Path:
    """Guidance rate: too low ignores the message, too high leaves the prior."""
    chosen = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
    base = DragConfig.small(turns)
    cases = {f"rate {r}": Case(base.with_(guidance_rate=r), at, n=n, **FAST) for r in chosen}
    rows, _ = compare("rates", cases)
    best = min(chosen, key=lambda r: rows[f"rate {r}"]["st_lpips"]["mean"])
    inside = chosen[0] < best < chosen[-1]
    gaps = [difference(rows, f"rate {r}", f"rate {best}", "st_lpips") for r in (chosen[0], chosen[-1])]
    worst = min(gaps, key=lambda gap: gap.low)
    made = claim(
        "guidance-rate-tradeoff",
        f"At {at} the guidance rate has an optimum inside the range: ST-LPIPS is lowest at {best} and higher at "
        f"{chosen[0]} and {chosen[-1]} (value: the smaller of the two differences)",
        worst,
        n,
        inside and worst.low > 0,
        source=f"{PAPER}, failure signatures",
        key="st_lpips difference",
        notebook="07_ablations",
    )
    command = f"dragkit sweep rates --turns {turns} --n {n}"
    return claims.write("rates", command, SEEDS, [made], {"turns": turns, "at": at, "rows": rows}, folder)


def budgets(n: int = 32, at: str = "block:12", folder: Path | None = None) -> Path:
    """Quality against seconds: DRAG and rMLE for 25 to 400 turns' time."""
    rows: Rows = {}
    for turns in (25, 50, 100, 200, 400):
        settings = equal_seconds(zoo.CLIENT, at, ["drag", "rmle"], turns)
        for name, config in settings.items():
            result = run(Case(config, at, method=name, n=n, **FAST))
            rows[f"{METHODS[name].label}, {turns} turns"] = result_row(result) | {"turns": turns}
    command = f"dragkit sweep budgets --n {n}"
    return claims.write("budgets", command, SEEDS, [], {"at": at, "rows": rows}, folder)


# -- choosing settings, on training photos --------------------------------------------------------------------------------


SPACE: dict[str, list[Any]] = {
    "recurrence": [1, 2, 4],
    "guidance_rate": [0.35, 0.5, 0.65, 0.8],
    "betas": [(0.9, 0.999), (0.7, 0.9), (0.5, 0.9), (0.3, 0.6)],
    "clip": [0.02, None],
    "eta": [1.0, 0.7],
}
FINER: dict[str, list[Any]] = {
    "recurrence": [1, 2],
    "guidance_rate": [0.5, 0.65, 0.8],
    "betas": [(0.3, 0.6), (0.3, 0.9), (0.0, 0.6)],
}


def search(turns: int = 100, n: int = 8, trials: int = 14, folder: Path | None = None) -> Path:
    """Choose DRAG's settings on training photos, at the embeddings and after the last block.

    Random trials (the published settings, with four turns per step, are the first), then one setting of the best at a time. Best
    is the lowest mean ST-LPIPS over both cuts. The log is committed, the winner is `DragConfig.small`.
    """
    draw = random.Random(0)
    rows: Rows = {}
    tried: dict[str, DragConfig] = {}

    def attempt(config: DragConfig) -> None:
        label = ", ".join(f"{name} {getattr(config, name)}" for name in SPACE)
        tried[label] = config
        for at in ("block:0", "block:12"):
            result = run(Case(config, at, n=n, split="train", **FAST))
            rows[f"{label}, {at}"] = result_row(result) | {"config": vars(config), "at": at}

    def best() -> DragConfig:
        return tried[
            min(tried, key=lambda t: sum(rows[f"{t}, {at}"]["st_lpips"]["mean"] for at in ("block:0", "block:12")))
        ]

    attempt(DragConfig(num_steps=turns // 4, recurrence=4))
    while len(tried) < trials:
        attempt(_changed(DragConfig(final_tweedie=True), turns, **{name: draw.choice(v) for name, v in SPACE.items()}))
    for name, values in FINER.items():
        for value in values:
            attempt(_changed(best(), turns, **{name: value}))
    command = f"dragkit sweep search --turns {turns} --n {n}"
    told = {"turns": turns, "split": "train", "winner": vars(best()), "rows": rows}
    return claims.write("search", command, SEEDS, [], told, folder)


def _changed(config: DragConfig, turns: int, **changes: Any) -> DragConfig:
    """`config` with changes and as many steps as make `turns` turns."""
    changed = config.with_(**changes)
    return changed.with_(num_steps=turns // changed.recurrence)


SWEEPS: dict[str, Callable[..., Path]] = {
    "search": search,
    "baselines": baselines,
    "ablations": ablations,
    "recurrence_curve": recurrence_curve,
    "rates": rates,
    "retrieval": retrieval,
    "budgets": budgets,
}

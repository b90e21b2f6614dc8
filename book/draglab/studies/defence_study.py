"""What every study of a defence measures: what leaks to attackers who know of it and who do not, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import zoo
from dragkit.config import DragConfig
from dragkit.measures import intervals
from dragkit.measures.embedding import independent_embedding
from dragkit.measures.identification import identify
from dragkit.methods import METHODS
from draglab import accuracy
from draglab.cases import Case
from draglab.gallery import imagenette_gallery
from draglab.pages import claims
from draglab.pages.claims import Claim
from draglab.studies.budget import FAST
from draglab.studies.first_checks import SEEDS
from draglab.tables import Rows, claim, compare, trained_models

AT = "block:6"  # half of the in-house ViT: the plain attack succeeds, and the server still has half of the work to do

TURNS = 40

OPEN = "undefended"

PRIOR = "prior only"


def attacked(
    spec: str, reply: str = "", *, n: int, turns: int = TURNS, client: str = zoo.CLIENT, queries: int = 1
) -> Case:
    """DRAG on a defended client: an attacker who does not know of the defence, or who makes this reply."""
    return Case(
        DragConfig.small(turns),
        AT,
        client=client,
        n=n,
        defence=spec or None,
        adaptive=reply if spec else "",
        queries=queries,
        **FAST,
    )


def rebuilt(spec: str, *, n: int, client: str = zoo.CLIENT) -> dict[str, Case]:
    """The inverse network that was trained on messages of this defence, where this machine has one: label -> case."""
    if not zoo.available(zoo.inverse_name(client, AT, spec)):
        return {}
    case = Case(None, AT, client=client, n=n, defence=spec, adaptive="retrained")
    return {f"{spec}, inverse network": case}


def study(name: str, cases: Mapping[str, Case]) -> Rows:
    """Rows of all cases: similarity, retrieval among 1,000 photos, accuracy of client and server, and the reference rows.

    Where this machine has a server that was trained for a defence, a row "<label>, trained server" follows with its accuracy: the
    messages are the same, and so is what leaks.
    """
    rows, images = compare(name, cases)
    first = _found_first(images, next(iter(cases.values())))
    for label, row in rows.items():
        if label in first:
            row["retrieval_top1"] = first[label]
        if label in cases:
            case = cases[label]
            row |= {"client": case.client, "server": case.client, "defence": case.defence or "", "reply": case.adaptive}
            row |= {"method": case.name, "queries": case.queries}
            row["accuracy"] = list(accuracy.measured_accuracy(case.client, case.at, case.defence or ""))
            row["models"] = trained_models([case.client, *case.knowledge().names(METHODS[case.name].uses)])
    for label, case in cases.items():
        if case.defence and (server := trained_server(case.defence, case.client)):
            models = rows[label]["models"] | trained_models([server])
            rows[f"{label}, trained server"] = rows[label] | {
                "server": server,
                "accuracy": list(accuracy.measured_accuracy(server, case.at, case.defence)),
                "models": models,
            }
    return rows


def changed(model: dict[str, Any], base: dict[str, Any]) -> str:
    """In what the training of a model (one of a row's "models") differs from that of another: "weight=0.0, lr=0.00015"."""
    a, b = (_flat(m["config"] | m["recipe"]) for m in (model, base))
    return ", ".join(f"{key}={value}" for key, value in a.items() if b.get(key, value) != value)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without levels: those of a mask stand beside the others."""
    inner = [_flat(value) for value in settings.values() if isinstance(value, dict)]
    plain = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    return plain | {key: value for one in inner for key, value in one.items()}


def trained_server(defence: str, client: str = zoo.CLIENT) -> str:
    """Zoo name of the ViT whose server half was trained for this defence, "" where this machine has none."""
    name = zoo.server_name(client, AT, defence)
    return name if zoo.available(name) else ""


def _found_first(images: Mapping[str, Tensor], case: Case) -> dict[str, list[float]]:
    """Share of photos whose reconstruction is nearest to the right one of 1,000, in the eyes of an independent network."""
    gallery = imagenette_gallery(case.n, seed=case.seed)
    look = independent_embedding(zoo.CLIENT)
    features = look(gallery.photos)
    return {
        label: list(identify(shown, gallery, look, features)["gallery"].top1)
        for label, shown in images.items()
        if label != "photo"
    }


def write(name: str, options: str, verdicts: list[Claim], rows: Rows, folder: Path | None, **extra: object) -> Path:
    """Claims and rows of a study, with the command that repeats it."""
    command = f"dragkit sweep {name} {options}".strip()
    return claims.write(name, command, SEEDS, verdicts, {"at": AT, **extra, "rows": rows}, folder)


def above_half(rows: Rows, label: str, metric: str = "ms_ssim") -> intervals.Interval:
    """How far a row lies above the middle between the prior alone and the undefended attack, per photo, with its interval.

    Above 0, the attacker keeps more than half of what the message gave away without the defence.
    """
    value, best, least = (torch.tensor(rows[row]["per_photo"][metric]) for row in (label, OPEN, PRIOR))
    return intervals.bootstrap_ci(value - (best + least) / 2)


def insufficient(id_: str, defence: str, rows: Rows, label: str, *, source: str, notebook: str) -> Claim:
    """The claim that a defence leaves an attacker who knows it more than half of what they had."""
    above = above_half(rows, label)
    statement = (
        f"{defence} is not enough: the strongest attacker tried ({label}) keeps more than half of the MS-SSIM that DRAG gains over "
        "the prior alone (value: how far above the half)"
    )
    n = len(rows[label]["per_photo"]["ms_ssim"])
    return claim(id_, statement, above, n, above.low > 0, source=source, key="ms_ssim above half", notebook=notebook)


def strongest(rows: Rows, labels: list[str], metric: str = "st_lpips") -> str:
    """The row of lowest mean ST-LPIPS: the attack to judge a defence by."""
    return min(labels, key=lambda label: rows[label][metric]["mean"])

"""Whom the reconstructions of every method give away."""

from __future__ import annotations

from pathlib import Path

from dragkit import zoo
from dragkit.measures.embedding import independent_embedding
from dragkit.measures.identification import identify
from dragkit.measures.intervals import Interval, rate
from dragkit.measures.probe import class_agreement, independent_classifier
from draglab.gallery import imagenette_gallery
from draglab.pages import claims
from draglab.studies.budget import equal_cases
from draglab.studies.first_checks import SEEDS
from draglab.tables import Rows, claim, compare


def retrieval(
    client: str = zoo.CLIENT, turns: int = 100, n: int = 32, at: str = "block:9", folder: Path | None = None
) -> Path:
    """Does a reconstruction single its photo out among 1,000? Looked for by a network that is not the victim, and by class."""
    cases = equal_cases(client, at, turns, n)
    _, images = compare(f"retrieval-{at.replace(':', '-')}", cases)
    gallery = imagenette_gallery(n, seed=next(iter(cases.values())).seed)
    look, name_class = independent_embedding(client), independent_classifier(client)
    features = look(gallery.photos)
    rows: Rows = {}
    for label, shown in images.items():
        ranked = identify(shown, gallery, look, features)
        rows[label] = {
            "top1": list(ranked["gallery"].top1),
            "top5": list(ranked["gallery"].top5),
            "mrr": list(ranked["gallery"].mrr),
            "same_class_top1": list(ranked["same class"].top1),
            "class_agreement": list(rate(class_agreement(shown, images["photo"], name_class))),
            "ranks": ranked["gallery"].ranks.tolist(),
        }
    top1 = Interval(*rows[f"DRAG, {at}"]["top1"])
    chance = 1 / len(gallery.photos)
    verdict = claim(
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
    extra = {"client": client, "at": at, "gallery": len(gallery.photos), "embedding": look.name, "rows": rows}
    return claims.write("retrieval", command, SEEDS, [verdict], extra, folder)

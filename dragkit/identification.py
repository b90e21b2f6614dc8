"""Whom a reconstruction gives away: retrieval of the photo from a gallery, its class, and what the prior alone would score.

A picture may look unlike the photo and still single it out, or look fine and show somebody else. So the reconstruction is put
among 1,000 photos and the truth is ranked by distance in two embeddings: the attacker's own (the raw IR) and that of a network
which is not the victim. Like every measurement, all of this sees the photo and none of it is an input of an attack.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dragkit import data, metrics, zoo
from dragkit.client import SplitClient
from dragkit.images import validate_images
from dragkit.metrics import Interval

DIRECTION = {
    **metrics.DIRECTION,
    "rank": "lower",
    "reciprocal_rank": "higher",
    "top1": "higher",
    "top5": "higher",
    "class_agreement": "higher",
}
"""Whether a higher score means that more leaks, for the image metrics and for the scores of this file."""

NEAR_DUPLICATE = 0.15
"""Token-wise cosine distance in block 6 of the embedded ViT below which two photos count as one.

Chosen on training photos: a tenth more brightness, a blur of one pixel and a crop of one pixel a side moved at least nine in ten
of 60 photos by less than this, and no two of 1,500 different photos were as close.
"""

_TIE = 1e-9  # distances are float64: equal features differ by rounding only
Classifier = Callable[[Tensor], Tensor]


# -- embeddings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embedding:
    """Images `(B, 3, H, W)` in [0, 1] to features `(B, N, D)`, float32 on the CPU: `N` tokens that are compared one by one.

    Attributes:
        name: model, tokens and precision, for tables.
        function: from a batch of images to features.
        batch: images per pass.
        weights: checksum of the model; features are cached on disk under it, or not at all when it is "".
    """

    name: str
    function: Callable[[Tensor], Tensor]
    batch: int = 50
    weights: str = ""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        validate_images(images, "images")
        if not self.weights:
            return self._compute(images)
        content = hashlib.sha256(f"{self.name} {self.weights} {tuple(images.shape)} {images.dtype}".encode())
        content.update(images.detach().cpu().contiguous().numpy().tobytes())
        file = data.cache_dir() / "features" / f"{content.hexdigest()[:24]}.safetensors"
        if not file.exists():
            _publish(file, {"features": self._compute(images)})
        return load_file(file)["features"]

    def _compute(self, images: Tensor) -> Tensor:
        return torch.cat([self.function(x).float().cpu() for x in images.split(self.batch)]).contiguous()


def ir_embedding(client: SplitClient) -> Embedding:
    """The attacker's own view: all tokens of the IR. Their cosine distance, token by token, is what DRAG minimises."""
    return Embedding(
        f"IR of {client.name} at {client.split}", lambda x: client.tokens(client(x.to(client.device))), batch=100
    )


def pooled_embedding(name: str = zoo.WILD_CLIENT, *, device: str = "cpu") -> Embedding:
    """Two tokens of the last block of an embedded ViT, `(B, 2, D)`: CLS and the mean of the patches, of equal weight.

    The real ViT-S runs under bfloat16 autocast, which makes it about three times as fast on a CPU.

    Raises:
        ValueError: no such client in the zoo. ImportError: the wheel of the real ViT-S is not installed.
    """
    client = zoo.load_client(name, "block:12", device=device)
    wild = name == zoo.WILD_CLIENT
    prefix = client.layout.prefix_tokens

    def pool(x: Tensor) -> Tensor:
        with torch.autocast(client.device.type, torch.bfloat16, enabled=wild):
            tokens = client.tokens(client(x.to(client.device))).float()
        return torch.stack([tokens[:, 0], tokens[:, prefix:].mean(1)], 1)

    return Embedding(f"{name} block 12, CLS and mean patch{', bfloat16' * wild}", pool, weights=_weights(name))


def independent_embedding(victim: str, *, device: str = "cpu") -> Embedding:
    """Pooled tokens of a network that is not the victim: the real ViT-S, or the in-house ViT when the ViT-S is the victim.

    Args:
        victim: name of a client of the zoo.

    Raises:
        ValueError: no such client.
    """
    return pooled_embedding(_other(victim), device=device)


def _other(victim: str) -> str:
    if victim not in zoo.CLIENTS:
        raise ValueError(f"victim is {victim!r}; it must be a client of the zoo: {', '.join(zoo.CLIENTS)}")
    return zoo.CLIENT if victim == zoo.WILD_CLIENT else zoo.WILD_CLIENT


def _weights(name: str) -> str:
    if name == zoo.WILD_CLIENT:
        from dragkit.zoo.wild import SHA256

        return SHA256
    return " ".join(zoo.card(name)["sha256"].values())


# -- the gallery -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gallery:
    """Photos among which a reconstruction is looked for; the attacked ones come first, in their order.

    Attributes:
        photos: `(G, 3, S, S)` in [0, 1].
        labels: `(G,)`.
        indices: of the photos in the validation split.
        attacked: how many were attacked; the truth of reconstruction i is gallery photo i.
        removed: indices (of the split) of near-duplicates that were left out.
        threshold: the distance below which two photos counted as one.
    """

    photos: Tensor
    labels: Tensor
    indices: list[int]
    attacked: int
    removed: list[int] = field(default_factory=list)
    threshold: float = NEAR_DUPLICATE

    @property
    def truth(self) -> Tensor:
        """Gallery position of each attacked photo, `(attacked,)`."""
        return torch.arange(self.attacked)

    @classmethod
    def build(
        cls,
        attacked: int = 32,
        size: int = 1000,
        *,
        seed: int = 0,
        image_size: int = 64,
        embedding: Embedding | None = None,
        threshold: float = NEAR_DUPLICATE,
    ) -> Gallery:
        """`size` validation photos, balanced over the classes, that begin with `data.pick("val", attacked, seed=seed)`.

        A photo closer than `threshold` to one already in the gallery is left out and the next one takes its place. An attacked
        photo is never left out.

        Args:
            attacked: number of attacked photos.
            size: number of photos in the gallery.
            seed: of the choice, the same as of the attacked photos.
            image_size: side in pixels.
            embedding: where distances are measured; block 6 of the embedded ViT when None. It is the same for every victim, so
                that all are looked for in one gallery.
            threshold: in that embedding, in [0, 2]; 0 keeps duplicates.

        Raises:
            ValueError: sizes that do not fit the split, or too many near-duplicates to fill the gallery.
        """
        available = len(data.imagenette("val", image_size)[1])
        if not 1 <= attacked <= size <= available:
            raise ValueError(
                f"attacked is {attacked} and size is {size}; they must satisfy 1 <= attacked <= size <= {available}, "
                "the photos of the split"
            )
        if not 0 <= threshold <= 2:
            raise ValueError(f"threshold is {threshold}; a cosine distance lies between 0 and 2")
        embedding = embedding or ir_embedding(zoo.load_client(at="block:6"))
        pool = min(available, size + size // 2)
        photos, labels, indices = data.pick("val", pool, image_size, seed)
        features = embedding(photos)
        distance = pairwise_distance(features, features)
        kept = list(range(attacked))
        removed: list[int] = []
        for i in range(attacked, pool):
            if len(kept) == size:
                break
            (kept if distance[i, kept].min() >= threshold else removed).append(i)
        if len(kept) < size:
            raise ValueError(
                f"threshold is {threshold}: only {len(kept)} of {pool} photos are that far apart, size is {size}; "
                "lower one of them"
            )
        chosen, left_out = ([indices[i] for i in part] for part in (kept, removed))
        return cls(photos[kept], labels[kept], chosen, attacked, left_out, threshold)


# -- retrieval -------------------------------------------------------------------------------------------------------


class RetrievalResult(NamedTuple):
    """How often the photo is found. Rates have Wilson intervals, the mean reciprocal rank a bootstrap interval.

    `chance_*` is the expectation of a guess that knows nothing: a uniformly random order of the candidates.
    """

    ranks: Tensor  # (B,), from 1
    top1: Interval
    top5: Interval
    mrr: Interval
    chance_top1: float
    chance_top5: float
    chance_mrr: float


def pairwise_distance(a: Tensor, b: Tensor, metric: str = "cosine") -> Tensor:
    """Distances `(A, B)` in float64 between features `(A, D)` or `(A, N, D)` and features of the same kind.

    Args:
        a, b: finite floats.
        metric: "cosine" is 1 - cos of each token, averaged over tokens; "euclidean" that of all numbers together.

    Raises:
        TypeError, ValueError: not finite float features of one shape, or an unknown metric.
    """
    for name, features in (("a", a), ("b", b)):
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor of features")
        if features.ndim not in (2, 3) or 0 in features.shape or not bool(features.isfinite().all()):
            raise ValueError(f"{name} must be finite, (B, D) or (B, N, D); got shape {tuple(features.shape)} or NaN")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"a is {tuple(a.shape)} and b is {tuple(b.shape)}; they must agree after the first axis")
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    if metric == "euclidean":
        return torch.cdist(a.flatten(1), b.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    if metric != "cosine":
        raise ValueError(f"metric is {metric!r}; it must be 'cosine' or 'euclidean'")
    tokens = a.shape[1] if a.ndim == 3 else 1
    x, y = (torch.nn.functional.normalize(features, dim=-1).flatten(1) for features in (a, b))
    return 1 - x @ y.T / tokens


def retrieval_ranks(queries: Tensor, gallery: Tensor, truth: Tensor, metric: str = "cosine") -> Tensor:
    """Rank `(B,)` of the truth among the whole gallery, 1 for the nearest; photos as near as the truth count before it.

    Args:
        queries: features of reconstructions, `(B, D)` or `(B, N, D)`; or the tokens of received IRs themselves, which an attacker
            who has a gallery may compare without any reconstruction.
        gallery: features of the gallery, `(G, D)` or `(G, N, D)`.
        truth: gallery position of each query's photo, integers `(B,)`.
        metric: see `pairwise_distance`.

    Raises:
        ValueError, TypeError: shapes that do not fit, features that are not finite, positions outside the gallery.
    """
    return _ranks(pairwise_distance(queries, gallery, metric), truth, None)


def same_class_ranks(
    queries: Tensor, gallery: Tensor, truth: Tensor, labels: Tensor, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Rank of the truth among gallery photos of its own class only: what leaks of the photo beyond its class.

    Args:
        labels: class of each gallery photo, `(G,)`. The rest as in `retrieval_ranks`.

    Returns:
        ranks `(B,)` from 1, and how many photos each truth had to be told from, itself included, `(B,)`.
    """
    if tuple(labels.shape) != (len(gallery),):
        raise ValueError(f"labels is {tuple(labels.shape)}; it must be ({len(gallery)},), one per gallery photo")
    distance = pairwise_distance(queries, gallery, metric)
    _check_truth(truth, distance)
    labels = labels.cpu()
    among = labels[truth.cpu()][:, None] == labels
    return _ranks(distance, truth, among), among.sum(1)


def retrieval(ranks: Tensor, candidates: int | Tensor, level: float = 0.95) -> RetrievalResult:
    """Top-1, top-5 and mean reciprocal rank of `ranks` `(B,)`, B at least 2, with intervals and chance levels.

    Args:
        ranks: from 1.
        candidates: photos that each truth was ranked among, one number or `(B,)`.
        level: confidence, in (0, 1).

    Raises:
        ValueError: a rank outside 1..candidates.
    """
    of = torch.as_tensor(candidates).cpu().expand(len(ranks))
    ranks = ranks.cpu()
    if ranks.ndim != 1 or bool(((ranks < 1) | (ranks > of)).any()):
        raise ValueError(f"ranks must be (B,) within 1..candidates, got {ranks.tolist()[:8]} among {of.tolist()[:8]}")
    top1, top5 = (metrics.wilson_interval(int((ranks <= k).sum()), len(ranks), level) for k in (1, 5))
    chance = [(1 / g, min(5, g) / g, float((1 / np.arange(1, g + 1)).mean())) for g in of.tolist()]
    return RetrievalResult(
        ranks, top1, top5, metrics.bootstrap_ci(1 / ranks.double(), level), *np.mean(chance, 0).tolist()
    )


def identify(
    images: Tensor, gallery: Gallery, embedding: Embedding, features: Tensor | None = None
) -> dict[str, RetrievalResult]:
    """Look reconstructions `(B, 3, H, W)` of the gallery's attacked photos up, in "gallery" and in "same class".

    Args:
        images: one per attacked photo, in the gallery's order.
        features: `embedding(gallery.photos)` where it is at hand, which saves most of the work for a second attack.

    Raises:
        ValueError: not one reconstruction per attacked photo.
    """
    if len(images) != gallery.attacked:
        raise ValueError(f"images holds {len(images)}; the gallery was built for {gallery.attacked} attacked photos")
    queries = embedding(images)
    features = embedding(gallery.photos) if features is None else features
    among_all = retrieval_ranks(queries, features, gallery.truth)
    return {
        "gallery": retrieval(among_all, len(gallery.photos)),
        "same class": retrieval(*same_class_ranks(queries, features, gallery.truth, gallery.labels)),
    }


def _ranks(distance: Tensor, truth: Tensor, among: Tensor | None) -> Tensor:
    _check_truth(truth, distance)
    own = distance.gather(1, truth.cpu()[:, None])
    not_farther = distance <= own + _TIE
    return (not_farther if among is None else not_farther & among).sum(1)


def _check_truth(truth: Tensor, distance: Tensor) -> None:
    if truth.dtype != torch.int64 or tuple(truth.shape) != (len(distance),):
        raise ValueError(
            f"truth is {tuple(truth.shape)} of {truth.dtype}; it must be int64 ({len(distance)},), one position per query"
        )
    if bool(((truth < 0) | (truth >= distance.shape[1])).any()):
        raise ValueError(f"truth holds {truth.tolist()[:8]}; the gallery has positions 0 to {distance.shape[1] - 1}")


# -- the class -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def class_agreement(images: Tensor, photos: Tensor, classifier: Classifier) -> Tensor:
    """Whether a classifier names the same class for the reconstruction and for the photo, bool `(B,)`.

    It compares two answers of the classifier, so its own mistakes are not counted against the attack. `rate` gives the interval.

    Args:
        images, photos: `(B, 3, H, W)` in [0, 1]. classifier: images to scores `(B, classes)`; see `independent_classifier`.
    """
    validate_images(images, "images")
    validate_images(photos, "photos")
    if len(images) != len(photos):
        raise ValueError(f"images and photos must correspond, got {len(images)} and {len(photos)}")
    return (classifier(images).argmax(1) == classifier(photos).argmax(1)).cpu()


def rate(hits: Tensor, level: float = 0.95) -> Interval:
    """Share of True in bool `(B,)`, with Wilson's interval."""
    if hits.dtype != torch.bool or hits.ndim != 1:
        raise ValueError(f"hits is {tuple(hits.shape)} of {hits.dtype}; it must be bool (B,)")
    return metrics.wilson_interval(int(hits.sum()), len(hits), level)


def independent_classifier(victim: str, *, device: str = "cpu") -> Classifier:
    """A classifier that is not the victim: a linear probe on the real ViT-S, or the in-house ViT when the ViT-S is the victim."""
    if _other(victim) == zoo.WILD_CLIENT:
        return fit_probe(device=device)
    client = zoo.load_client(zoo.CLIENT, "block:12", device=device)
    return lambda images: client.server(client(images.to(client.device)))


@dataclass(frozen=True)
class Probe:
    """Multinomial logistic regression on the pooled tokens of a frozen network: images `(B, 3, H, W)` -> scores `(B, classes)`.

    Attributes: weight `(classes, N D)`; bias `(classes,)`; card: how it was made and its validation accuracy.
    """

    embedding: Embedding
    weight: Tensor
    bias: Tensor
    card: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        return _flat(self.embedding(images)) @ self.weight.T + self.bias


def fit_probe(
    n_train: int = 1500,
    n_val: int = 500,
    *,
    seed: int = 0,
    penalties: Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
    embedding: Embedding | None = None,
    device: str = "cpu",
) -> Probe:
    """The linear probe, fitted on training photos or read from `data.cache_dir()`, where it lies with its card.

    The penalty is chosen on every fifth training photo, then all of them are used. Validation photos are only scored.

    Args:
        n_train, n_val: photos of the two splits, balanced over the classes.
        seed: of their choice.
        penalties: values of scikit-learn's C (the inverse penalty) to choose from.
        embedding: the pooled tokens of the real ViT-S when None.

    Raises:
        ImportError: scikit-learn is not installed. ValueError: more photos than a split has.
    """
    if n_train < 50 or n_val < 1 or not penalties:
        raise ValueError(f"n_train is {n_train}, n_val {n_val}; at least 50 and 1 are needed, and one penalty")
    embedding = embedding or pooled_embedding(device=device)
    spec = {
        "embedding": embedding.name,
        "weights": embedding.weights,
        "n_train": n_train,
        "n_val": n_val,
        "seed": seed,
        "penalties": list(penalties),
    }
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    file = data.cache_dir() / "probes" / f"{key}.safetensors"
    if not (file.exists() and file.with_suffix(".json").exists()):
        _make_probe(spec, embedding, file)
    card, stored = json.loads(file.with_suffix(".json").read_text()), load_file(file)
    if card["sha256"] != zoo.file_sha256(file):
        raise ValueError(f"{file} is not the file its card describes; delete both and fit the probe again")
    return Probe(embedding, stored["weight"], stored["bias"], card)


def _make_probe(spec: dict[str, Any], embedding: Embedding, file: Path) -> None:
    x, y, _ = data.pick("train", spec["n_train"], seed=spec["seed"])
    features = _flat(embedding(x)).numpy()
    held_out = np.arange(len(y)) // len(data.CLASSES) % 5 == 4  # whole rounds over the classes
    scores = {
        c: float(_logistic(features[~held_out], y.numpy()[~held_out], c).score(features[held_out], y.numpy()[held_out]))
        for c in spec["penalties"]
    }
    chosen = max(scores, key=lambda c: scores[c])
    model = _logistic(features, y.numpy(), chosen)
    x, y, _ = data.pick("val", spec["n_val"], seed=spec["seed"])
    right = int((model.predict(_flat(embedding(x)).numpy()) == y.numpy()).sum())
    top1 = metrics.wilson_interval(right, len(y))
    _publish(file, {"weight": torch.tensor(model.coef_).float(), "bias": torch.tensor(model.intercept_).float()})
    card = {
        "name": "linear probe",
        "command": f"python -m dragkit.identification --n-train {spec['n_train']} --n-val {spec['n_val']} --seed {spec['seed']}",
        "data": "Imagenette, training split; scored on the validation split",
        **spec,
        "penalty": chosen,
        "held_out_top1": scores,
        "measured": {"top1": {"value": top1.mean, "ci": [top1.low, top1.high], "n": len(y)}},
        "packages": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
        "sha256": zoo.file_sha256(file),
    }
    file.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


def _logistic(features: np.ndarray, labels: np.ndarray, penalty: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('the probe needs scikit-learn: pip install "dragkit[train]"') from error
    return LogisticRegression(C=penalty, max_iter=2000).fit(features, labels)


def _flat(features: Tensor) -> Tensor:
    """Features `(B, N, D)` as `(B, N D)`, each token of unit length."""
    return torch.nn.functional.normalize(features.float(), dim=-1).flatten(1)


# -- against the prior alone, and among restarts ---------------------------------------------------------------------


def leakage_gain(
    scores: Tensor, prior_only_scores: Tensor, metric: str, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """How much better an attack scores than samples of its prior that never saw the IR: the part that the IR gave away.

    Args:
        scores, prior_only_scores: `(B,)` of the same photos in the same order.
        metric: what they are, a key of `DIRECTION`; its sign is turned so that a positive gain means leakage.
        level: confidence. seed: of the bootstrap.

    Raises:
        ValueError: unknown metric, or scores that `metrics.paired_difference` refuses.
    """
    if metric not in DIRECTION:
        raise ValueError(f"metric is {metric!r}; it must be one of {', '.join(DIRECTION)}")
    better, worse = (scores, prior_only_scores) if DIRECTION[metric] == "higher" else (prior_only_scores, scores)
    return metrics.paired_difference(better, worse, level, seed)


def evidence_map(samples: Tensor) -> Tensor:
    """Standard deviation of every pixel over restarts, averaged over the colours, `(B, H, W)`.

    Where it is near 0 the restarts agree: the message determines the pixel (or the prior knows no alternative, so compare with
    the map of samples of the prior alone). Where it is large the prior invented what is seen.

    Args:
        samples: `(S, B, 3, H, W)` in [0, 1], S at least 2, as `dragkit.attacks.restarts` returns; leave failed restarts out.

    Raises:
        ValueError: another shape, or values that are no images.
    """
    if samples.ndim != 5 or len(samples) < 2:
        raise ValueError(f"samples is {tuple(samples.shape)}; it must be (S, B, 3, H, W) with two restarts or more")
    validate_images(samples.flatten(0, 1), "samples")
    return samples.std(0).mean(1)


def invention(samples: Tensor) -> Tensor:
    """Mean of `evidence_map` per image, `(B,)`: 0 where every restart gives the same picture."""
    return evidence_map(samples).mean((1, 2))


def _publish(file: Path, tensors: dict[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fit the linear probe and print its card.")
    parser.add_argument("--n-train", type=int, default=1500)
    parser.add_argument("--n-val", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(json.dumps(fit_probe(chosen.n_train, chosen.n_val, seed=chosen.seed).card, indent=1))

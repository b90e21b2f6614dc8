"""Whether a reconstruction shows the class of its photo, in the eyes of a classifier that is not the victim."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dragkit import cache, data, zoo
from dragkit.cache import write_json, write_tensors
from dragkit.images import validate_images
from dragkit.measures import intervals
from dragkit.measures.embedding import Embedding, other_client, pooled_embedding

Classifier = Callable[[Tensor], Tensor]
"""Images `(B, 3, H, W)` in [0, 1] to scores `(B, classes)`."""

PENALTIES = (1.0, 10.0, 100.0, 1000.0)


@torch.no_grad()
def class_agreement(images: Tensor, photos: Tensor, classifier: Classifier) -> Tensor:
    """Whether a classifier names the same class for the reconstruction and for the photo, bool `(B,)`.

    It compares two answers of the classifier, so its own mistakes are not counted against the attack. `rate` gives the interval.

    Args:
        images, photos: `(B, 3, H, W)` in [0, 1], in the same order.
        classifier: images to scores `(B, classes)`; see `independent_classifier`.
    """
    validate_images(images, "images")
    validate_images(photos, "photos")
    if len(images) != len(photos):
        raise ValueError(f"images and photos must correspond, got {len(images)} and {len(photos)}")
    return (classifier(images).argmax(1) == classifier(photos).argmax(1)).cpu()


def independent_classifier(victim: str, *, device: str = "cpu") -> Classifier:
    """A classifier that is not the victim: a linear probe on the real ViT-S, or the in-house ViT when the ViT-S is the victim.

    Args:
        victim: name of a client of the zoo.
        device: where it runs.

    Raises:
        ValueError: no such client.
    """
    if other_client(victim) == zoo.WILD_CLIENT:
        return imagenette_probe(device=device)
    client = zoo.load_client(zoo.CLIENT, "block:12", device=device)
    return lambda images: client.server(client(images.to(client.device)))


@dataclass(frozen=True)
class Probe:
    """Multinomial logistic regression on the pooled tokens of a frozen network: images `(B, 3, H, W)` -> scores `(B, classes)`.

    Attributes:
        embedding: the network.
        weight: `(classes, N D)`.
        bias: `(classes,)`.
        card: how it was made, and its accuracy on photos that it was not fitted on.
    """

    embedding: Embedding
    weight: Tensor
    bias: Tensor
    card: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        return _flat(self.embedding(images)) @ self.weight.T + self.bias


def fit_probe(
    embedding: Embedding,
    photos: Tensor,
    labels: Tensor,
    test_photos: Tensor,
    test_labels: Tensor,
    *,
    penalties: Sequence[float] = PENALTIES,
) -> Probe:
    """A linear probe for one's own photos. The test photos are only scored.

    The penalty is chosen on every fifth photo of a class, then all photos are used.

    Args:
        embedding: images to features; a network that is not the victim.
        photos, labels: to fit on, `(n, 3, H, W)` in [0, 1] and classes 0, 1, ... `(n,)`; at least 50.
        test_photos, test_labels: to score on, of the same kind.
        penalties: values of scikit-learn's C (the inverse penalty) to choose from.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: too few photos, labels that do not fit them, or no penalty.
    """
    _check_labelled("photos", photos, labels, 50)
    _check_labelled("test_photos", test_photos, test_labels, 1)
    if not penalties:
        raise ValueError("penalties is empty; at least one is needed")
    features, y = _flat(embedding(photos)).numpy(), labels.cpu().numpy()
    held_out, classes = _every_fifth(y), np.unique(y)
    if not np.array_equal(classes, np.arange(len(classes))) or len(classes) < 2:
        raise ValueError(
            f"labels holds {classes.tolist()[:12]}; it must be classes 0, 1, ... without a gap, two or more"
        )
    if not held_out.any():
        raise ValueError("labels has no class with five photos; the penalty is chosen on every fifth photo of a class")
    scores = {
        c: float(_logistic(features[~held_out], y[~held_out], c).score(features[held_out], y[held_out]))
        for c in penalties
    }
    penalty = max(scores, key=lambda c: scores[c])
    model = _logistic(features, y, penalty)
    right = int((model.predict(_flat(embedding(test_photos)).numpy()) == test_labels.cpu().numpy()).sum())
    top1 = intervals.wilson_interval(right, len(test_labels))
    card = {
        "name": "linear probe",
        "embedding": embedding.name,
        "n_train": len(labels),
        "penalty": penalty,
        "held_out_top1": scores,
        "measured": {"top1": {"value": top1.mean, "ci": [top1.low, top1.high], "n": len(test_labels)}},
        "packages": {name: version(name) for name in ("torch", "scikit-learn")},
    }
    weight, bias = torch.tensor(model.coef_).float(), torch.tensor(model.intercept_).float()
    if len(weight) == 1:  # of two classes scikit-learn scores the second against the first
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    return Probe(embedding, weight, bias, card)


def _check_labelled(name: str, photos: Tensor, labels: Tensor, least: int) -> None:
    validate_images(photos, name)
    if tuple(labels.shape) != (len(photos),) or len(photos) < least:
        raise ValueError(
            f"{name} holds {len(photos)} with labels {tuple(labels.shape)}; at least {least} are needed, a label each"
        )


def _every_fifth(labels: np.ndarray) -> np.ndarray:
    """Which photos are the fifth, tenth, ... of their class, bool `(n,)`."""
    place = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        of_class = labels == label
        place[of_class] = np.arange(of_class.sum())
    return place % 5 == 4


def imagenette_probe(
    n_train: int = 1500,
    n_val: int = 500,
    *,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
    embedding: Embedding | None = None,
    device: str = "cpu",
) -> Probe:
    """The linear probe for the ten classes of Imagenette, fitted once, then read from the cache, where it lies with its card.

    Args:
        n_train, n_val: photos of the training subset to fit on and of the validation subset to score on, balanced over the
            classes.
        seed: of their choice.
        penalties: see `fit_probe`.
        embedding: the pooled tokens of the real ViT-S when None.
        device: of the embedding that is loaded when none is given.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: more photos than a subset has.
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
    file = cache.cache_dir() / "probes" / f"{key}.safetensors"
    if not (file.exists() and file.with_suffix(".json").exists()):
        _make_probe(spec, embedding, file)
    card, stored = json.loads(file.with_suffix(".json").read_text()), load_file(file)
    if card["sha256"] != zoo.file_sha256(file):
        raise ValueError(f"{file} is not the file its card describes; delete both and fit the probe again")
    return Probe(embedding, stored["weight"], stored["bias"], card)


def _make_probe(spec: dict[str, Any], embedding: Embedding, file: Path) -> None:
    x, y, _ = data.pick("train", spec["n_train"], seed=spec["seed"])
    new_x, new_y, _ = data.pick("val", spec["n_val"], seed=spec["seed"])
    probe = fit_probe(embedding, x, y, new_x, new_y, penalties=spec["penalties"])
    write_tensors(file, {"weight": probe.weight, "bias": probe.bias})
    numbers = f"--n-train {spec['n_train']} --n-val {spec['n_val']} --seed {spec['seed']}"
    card = {
        "command": f"python -m dragkit.measures.probe {numbers}",
        "data": "Imagenette, training subset; scored on the validation subset",
        **spec,
        **probe.card,
        "sha256": zoo.file_sha256(file),
    }
    write_json(file.with_suffix(".json"), card)


def _logistic(features: np.ndarray, labels: np.ndarray, penalty: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('the probe needs scikit-learn: pip install "dragkit[train]"') from error
    return LogisticRegression(C=penalty, max_iter=2000).fit(features, labels)


def _flat(features: Tensor) -> Tensor:
    """Features `(B, N, D)` as `(B, N D)`, each token of unit length."""
    return torch.nn.functional.normalize(features.float(), dim=-1).flatten(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fit the linear probe and print its card.")
    parser.add_argument("--n-train", type=int, default=1500)
    parser.add_argument("--n-val", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    print(json.dumps(imagenette_probe(o.n_train, o.n_val, seed=o.seed).card, indent=1))

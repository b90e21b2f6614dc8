"""Which class a reconstruction shows, asked of a classifier that is not the victim: a linear probe, or the other client."""

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
from dragkit.measures.intervals import Interval

Classifier = Callable[[Tensor], Tensor]


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
    return intervals.wilson_interval(int(hits.sum()), len(hits), level)


def independent_classifier(victim: str, *, device: str = "cpu") -> Classifier:
    """A classifier that is not the victim: a linear probe on the real ViT-S, or the in-house ViT when the ViT-S is the victim."""
    if other_client(victim) == zoo.WILD_CLIENT:
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
    file = cache.cache_dir() / "probes" / f"{key}.safetensors"
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
    top1 = intervals.wilson_interval(right, len(y))
    write_tensors(file, {"weight": torch.tensor(model.coef_).float(), "bias": torch.tensor(model.intercept_).float()})
    card = {
        "name": "linear probe",
        "command": f"python -m dragkit.measures.probe --n-train {spec['n_train']} --n-val {spec['n_val']} --seed {spec['seed']}",
        "data": "Imagenette, training split; scored on the validation split",
        **spec,
        "penalty": chosen,
        "held_out_top1": scores,
        "measured": {"top1": {"value": top1.mean, "ci": [top1.low, top1.high], "n": len(y)}},
        "packages": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
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
    chosen = parser.parse_args()
    print(json.dumps(fit_probe(chosen.n_train, chosen.n_val, seed=chosen.seed).card, indent=1))

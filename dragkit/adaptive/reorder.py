"""The published reply to shuffled tokens: a classifier names each token's position, the Hungarian method makes an order of that.

The classifier is trained on tokens of public photos (arXiv 2509.11724, section 5.5). It sees the patch tokens as a set: a
transformer without position embeddings. How many tokens it puts back is measured on photos that were held out, and is in its card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dragkit import cache, zoo
from dragkit.adaptive.distances import match
from dragkit.cache import digest, weights_digest, write_json, write_tensors
from dragkit.client import SplitClient
from dragkit.defenses.public import public_photos
from dragkit.measures import intervals
from dragkit.measures.embedding import ir_embedding

BATCH = 32  # photos per step

PEAK = 2e-3  # learning rate of AdamW, one cycle

IMAGENETTE = "Imagenette, training photos"

MISSING = 0.5  # at most this share of the tokens is hidden in training, so that dropped tokens are nothing new


class PositionNetwork(nn.Module):
    """Patch tokens `(B, N, D)` and which are there, bool `(B, N)`, to scores `(B, N, places)`; ignores their order."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, places: int, width: int = 128, depth: int = 2):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.enter = nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.leave = nn.Linear(width, places)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.enter((tokens - self.mean) / self.scale)
        return self.leave(self.blocks(x, src_key_padding_mask=None if mask is None else ~mask))


@dataclass(frozen=True)
class Positions:
    """A trained classifier: tokens `(B, N, D)` of messages to log-probabilities `(B, patches, places)`.

    Attributes:
        network: scores of the places.
        prefix: tokens in front, which keep their place.
        card: how it was made and how often it is right.
    """

    network: PositionNetwork
    prefix: int
    card: dict[str, Any]

    @torch.no_grad()
    def __call__(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        patches = tokens[:, self.prefix :].float()
        return self.network(patches, None if mask is None else mask[:, self.prefix :]).log_softmax(-1)


def reorder(tokens: Tensor, prefix: int, scores: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Patch tokens in the places that are most likely together.

    Args:
        tokens: of messages, `(B, prefix + P, D)`.
        prefix: tokens in front that keep their place.
        scores: log-probability of each place for each patch token, `(B, P, P)`.
        mask: which tokens arrived, bool `(B, prefix + P)`; None means all.

    Returns:
        tokens in order, with zeros where no token was put, and which places are taken (None if `mask` is None).

    Raises:
        ValueError: scores of another shape.
    """
    patches, batch = tokens.shape[1] - prefix, len(tokens)
    if scores.shape != (batch, patches, patches):
        raise ValueError(f"scores is {tuple(scores.shape)}; it must be {(batch, patches, patches)}, a place per token")
    there = None if mask is None else mask[:, prefix:]
    places = match(-scores, there)
    ordered, taken = tokens.clone(), torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    ordered[:, prefix:], taken[:, prefix:] = 0, False
    image, token = (places >= 0).nonzero(as_tuple=True)
    place = prefix + places[image, token]
    ordered[image, place], taken[image, place] = tokens[image, prefix + token], True
    if mask is None:
        return ordered, None
    taken[:, :prefix] = mask[:, :prefix]
    return ordered, taken


# -- training ----------------------------------------------------------------------------------------------------------


def fit_positions(
    client: SplitClient,
    photos: Tensor | None = None,
    *,
    n_train: int = 6000,
    n_held_out: int = 500,
    steps: int = 1500,
    seed: int = 0,
) -> Positions:
    """The position classifier of a client: trained in minutes, or read from the cache with its card.

    Args:
        client: sends tokens.
        photos: public photos `(n, 3, H, W)` in [0, 1] like those that the client sees; None means training photos of Imagenette.
        n_train, n_held_out: how many of them to train and to score on; of fewer photos of one's own, all, and a tenth is held out.
        steps: of AdamW, 32 photos each.
        seed: of the batches, the first weights, and the choice from Imagenette.

    Raises:
        ValueError: a client without patch tokens, or too few photos; before any long work.
        FileNotFoundError: no photos are given, and Imagenette is not there.
    """
    if n_train < BATCH or n_held_out < 2 or steps < 1:
        raise ValueError(
            f"n_train is {n_train}, n_held_out {n_held_out}, steps {steps}; at least {BATCH}, 2 and 1 are needed"
        )
    if client.layout.kind != "BND":
        raise ValueError(f"client is {client}, {client.layout}; only tokens, layout BND, have positions to be found")
    if photos is not None:
        photos = public_photos(photos, 0, least=BATCH + 2)
        n_held_out = min(n_held_out, max(2, len(photos) // 10))
        n_train = min(n_train, len(photos) - n_held_out)
    spec = {
        "client": client.name,
        "at": client.at,
        "weights": weights_digest(client.model),
        "input": [*client.image_size, client.interpolation, *client.mean, *client.std],
        "photos": IMAGENETTE if photos is None else digest(photos),
        "n_train": n_train,
        "n_held_out": n_held_out,
        "steps": steps,
        "seed": seed,
        "network": "2 transformer blocks, width 128",
    }
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    file = cache.cache_dir() / "probes" / f"{key}.safetensors"
    if not (file.exists() and file.with_suffix(".json").exists()):
        _make(spec, client, public_photos(photos, n_train + n_held_out, seed=seed), file)
    card, stored = json.loads(file.with_suffix(".json").read_text()), load_file(file)
    if card["sha256"] != zoo.file_sha256(file):
        raise ValueError(f"{file} is not the file its card describes; delete both and fit the positions again")
    network = PositionNetwork(len(stored["mean"]), len(stored["leave.bias"]))
    network.load_state_dict(stored)
    return Positions(network.to(client.device).eval().requires_grad_(False), client.layout.prefix_tokens, card)


def _make(spec: dict[str, Any], client: SplitClient, photos: Tensor, file: Path) -> None:
    """Train on the first photos, score on the next ones, and store the classifier with its card."""
    n_train, total = spec["n_train"], spec["n_train"] + spec["n_held_out"]
    with torch.no_grad():
        tokens = ir_embedding(client)(photos[:total])
    tokens = tokens.half()  # 110 MB instead of 220; rounding is far below the spread of tokens
    prefix = client.layout.prefix_tokens
    network = train(tokens[:n_train, prefix:], spec["steps"], spec["seed"], client.device)
    alone, together = accuracy(Positions(network, prefix, {}), tokens[n_train:].float().to(client.device))
    write_tensors(file, network.state_dict())
    card = {
        "name": "position classifier",
        "command": _command(spec),
        "data": f"{spec['photos']}; scored on others of these photos that were held out",
        **spec,
        "measured": {
            name: {"value": share.mean, "ci": [share.low, share.high], "n": spec["n_held_out"]}
            for name, share in (
                ("right place, token by token", intervals.bootstrap_ci(alone)),
                ("right place, Hungarian", intervals.bootstrap_ci(together)),
            )
        },
        "packages": {name: version(name) for name in ("torch", "transformers", "scipy")},
        "sha256": zoo.file_sha256(file),
    }
    write_json(file.with_suffix(".json"), card)


def _command(spec: dict[str, Any]) -> str:
    """What makes the same classifier again."""
    numbers = [(name, spec[name]) for name in ("n_train", "n_held_out", "steps", "seed")]
    if spec["photos"] != IMAGENETTE:
        return f"fit_positions(client, photos, {', '.join(f'{name}={value}' for name, value in numbers)})"
    options = [("client", spec["client"]), ("at", spec["at"]), *numbers]
    return "python -m dragkit.adaptive.reorder " + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in options)


@torch.enable_grad()
def train(tokens: Tensor, steps: int, seed: int, device: torch.device | str = "cpu") -> PositionNetwork:
    """A classifier for patch tokens `(n, P, D)` that lie in order, n at least `BATCH`; the same for the same seed."""
    n, places, features = tokens.shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PositionNetwork(features, places)
    some = tokens[:: max(1, n // 512)].float().flatten(0, 1)
    network.mean.copy_(some.mean(0))
    network.scale.copy_(some.std(0).clamp(min=1e-6))
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), PEAK, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, steps + 1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = tokens[torch.randperm(n, generator=generator)[:BATCH]].float().to(device)
        share = MISSING * torch.rand(BATCH, 1, generator=generator)
        mask = torch.rand(BATCH, places, generator=generator) >= share
        mask[:, 0] |= ~mask.any(1)  # an image without any token has no answer
        mask = mask.to(device)
        target = torch.arange(places, device=device).expand(BATCH, places)
        loss = F.cross_entropy(network(x, mask)[mask], target[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def accuracy(positions: Positions, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Share of patch tokens put right per image, `(B,)` each: one by one, and with no place taken twice.

    Args:
        tokens: `(B, N, D)`, in order. The classifier ignores order, so they need not be shuffled.
    """
    scores = torch.cat([positions(part) for part in tokens.split(100)])
    truth = torch.arange(scores.shape[1], device=scores.device)
    alone, together = ((places == truth).float().mean(1).cpu() for places in (scores.argmax(-1), match(-scores)))
    return alone, together


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the position classifier of a client and print its card.")
    parser.add_argument("--client", default=zoo.CLIENT)
    parser.add_argument("--at", default="block:6")
    parser.add_argument("--n-train", type=int, default=6000)
    parser.add_argument("--n-held-out", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    cut = zoo.load_client(o.client, o.at)
    positions = fit_positions(cut, n_train=o.n_train, n_held_out=o.n_held_out, steps=o.steps, seed=o.seed)
    print(json.dumps(positions.card, indent=1))

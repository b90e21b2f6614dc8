"""DISCO: a small network looks at the representation and turns channels down (Singh et al., CVPR 2021, arXiv 2012.11025).

The pruner scores the D channels of a message; a channel whose score is below the message's own threshold gets a gain near 0, one
above it a gain near 1. All tokens share the gain of their channel. As released the gain is soft, `sigmoid(. / 0.03)`, and never
quite 0: in exact arithmetic, whoever compares channel by channel does not notice it
(`dragkit.adaptive.distances.channel_cosine_distance`).

The published pruner is a copy of the server with a head of D scores: too large to ship with a package, and more work for the phone
than a client half that is no deeper than the server. This one is two layers on pooled tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.defenses.additive import feature_axis
from dragkit.defenses.base import Defence, Family, Utility

Scores = Literal["learned", "static", "random"]

Fill = Literal["zero", "mean"]


@dataclass(frozen=True)
class Mask:
    """How scores become gains.

    Attributes:
        ratio: share of the channels that are turned down, in [0, 1). 0 turns none below 1/2.
        temperature: of the sigmoid.
        hard: gains of 0 and 1 instead of soft ones.
        scores: "learned" (the pruner's, for each message), "static" (the pruner's mean over training photos, the same for all
            messages) or "random" (drawn for each message).
        fill: what takes the place of a channel: "zero", or "mean" over training photos.
    """

    ratio: float = 0.5
    temperature: float = 0.03
    hard: bool = False
    scores: Scores = "learned"
    fill: Fill = "zero"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; the share of the channels that are pruned is in [0, 1)")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")
        for name, known in (("scores", get_args(Scores)), ("fill", get_args(Fill))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")

    def gains(self, scores: Tensor) -> Tensor:
        """`channel_mask` of scores `(B, D)`."""
        return channel_mask(scores, self.ratio, self.temperature, self.hard)

    def apply(self, tokens: Tensor, gains: Tensor, pruner: Pruner) -> Tensor:
        """Tokens `(B, N, D)` with gains `(B, D)` that all tokens share: `gain * h + (1 - gain) * fill`."""
        kept = gains[:, None] * tokens
        if self.fill == "zero":
            return kept
        return kept + (1 - gains[:, None]) * pruner.mean_tokens(tokens.shape[1]).to(tokens)


def channel_mask(scores: Tensor, ratio: float, temperature: float, hard: bool = False) -> Tensor:
    """Gains in [0, 1] for the channels of each message: `sigmoid((score - tau) / temperature)`.

    tau is the score at place floor(ratio * D) of the sorted ones (from 0), so that many channels have a gain below 1/2.

    Args:
        scores: `(B, D)`.
        ratio: see `Mask`.
        temperature: see `Mask`.
        hard: 1 at and above tau, 0 below; the gradient stays that of the soft gains ("straight-through").

    Returns:
        `(B, D)` in the dtype of `scores`.
    """
    place = int(ratio * scores.shape[1] + 1e-9)  # 0.29 * 100 is a little less than 29
    tau = scores.sort(1).values[:, place, None]
    soft = torch.sigmoid((scores - tau) / temperature)
    return (scores >= tau).to(soft) + (soft - soft.detach()) if hard else soft


# -- the network ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrunerShape:
    """What a pruner is made for, and the mask it was trained with.

    Attributes:
        token_width: D.
        prefix_tokens: how many tokens (CLS) come before the patch tokens.
        hidden: width of the hidden layer.
        mask: of the training; what the defence does when nobody says otherwise.
    """

    token_width: int
    prefix_tokens: int = 0
    hidden: int = 128
    mask: Mask = field(default_factory=Mask)

    def __post_init__(self) -> None:
        for name, least in (("token_width", 1), ("prefix_tokens", 0), ("hidden", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


class Pruner(nn.Module):
    """Scores of the channels, `(B, N, D) -> (B, D)`: the mean prefix token and the mean patch token, standardised, and two layers.

    Attributes:
        mean, std: of these pooled tokens over training photos, `(1 or 2, D)`.
        average: the mean score of every channel, `(D,)`.
    """

    mean: Tensor
    std: Tensor
    average: Tensor

    def __init__(self, shape: PrunerShape):
        super().__init__()
        self.shape = shape
        d, pools = shape.token_width, 2 if shape.prefix_tokens else 1
        self.register_buffer("mean", torch.zeros(pools, d))
        self.register_buffer("std", torch.ones(pools, d))
        self.register_buffer("average", torch.zeros(d))
        self.hidden, self.head = nn.Linear(pools * d, shape.hidden), nn.Linear(shape.hidden, d)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores `(B, D)` in the precision of the weights, also under autocast: a temperature of 0.03 needs it.

        Raises:
            ValueError: tokens of another width.
        """
        d, prefix = self.shape.token_width, self.shape.prefix_tokens
        if tokens.ndim != 3 or tokens.shape[2] != d or tokens.shape[1] <= prefix:
            raise ValueError(f"tokens are {tuple(tokens.shape)}; this pruner takes (B, N, {d}) with N above {prefix}")
        with torch.autocast(tokens.device.type, enabled=False):
            pooled = (self._pool(tokens.to(self.mean)) - self.mean) / self.std
            return self.head(nn.functional.gelu(self.hidden(pooled.flatten(1))))

    def _pool(self, tokens: Tensor) -> Tensor:
        p = self.shape.prefix_tokens
        return torch.stack([part.mean(1) for part in (tokens[:, :p], tokens[:, p:]) if part.shape[1]], 1)

    @torch.no_grad()
    def standardise_on(self, tokens: Tensor) -> None:
        """Take `mean` and `std` from training tokens `(B, N, D)`, rounded to half precision, in which they are shipped."""
        pooled = self._pool(tokens.float())
        std = pooled.std(0)
        self.mean.copy_(pooled.mean(0).half())
        self.std.copy_(std.clamp_min(1e-2 * std.mean()).half())

    def mean_tokens(self, n: int) -> Tensor:
        """Mean tokens over training photos `(n, D)`: one for the prefix, one for all patches."""
        p = self.shape.prefix_tokens
        return torch.cat([self.mean[:1].expand(p, -1), self.mean[-1:].expand(n - p, -1)])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.safetensors` (in the precision the weights have now) and `config.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.shape), indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> Pruner:
        """Load what `save_pretrained` wrote, in float32, frozen and in eval mode.

        Raises:
            FileNotFoundError: a file is missing. ValueError: the configuration is not that of a pruner.
        """
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text())
        try:
            pruner = cls(PrunerShape(**{**config, "mask": Mask(**config["mask"])}))
        except (TypeError, KeyError) as error:
            raise ValueError(f"{folder / 'config.json'} does not describe a pruner: {error}") from error
        pruner.load_state_dict(load_file(folder / "model.safetensors"))
        return pruner.to(device).eval().requires_grad_(False)


def pruner_name(client: str, at: str) -> str:
    """Name in the zoo, e.g. "pruner/disco-vit-imagenette64/block-6"."""
    return f"pruner/{client}/{at.replace(':', '-')}"


def load_pruner(client: SplitClient) -> Pruner:
    """The pruner that was trained together with a client: shipped, or trained on this machine.

    Raises:
        ValueError: there is none.
    """
    name = pruner_name(client.name, client.at)
    if not zoo.available(name):
        raise ValueError(
            f"client {client.name!r} has no pruner at {client.at!r}; DISCO needs a client that was trained with one, "
            "such as disco-vit-imagenette64 at block:6. Train one: dragkit train disco"
        )
    return Pruner.from_pretrained(zoo.verify(name), device=client.device)


# -- the defence ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disco(Defence):
    """Channels turned down with the mask that the pruner was trained with.

    Attributes:
        pruner: of this client.
        mask: how its scores become gains.
    """

    pruner: Pruner = field(compare=False, repr=False)
    mask: Mask
    utility: ClassVar[Utility] = "trained"
    family: ClassVar[Family] = "trained"

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Disco:
        """The defence of a client that was trained with DISCO. `value`: share of pruned channels; None as in training."""
        pruner = load_pruner(client)
        mask = cls.variant(pruner.shape.mask)
        return cls(client.layout, pruner, mask if value is None else replace(mask, ratio=value))

    @staticmethod
    def variant(mask: Mask) -> Mask:
        """The mask of this variant, from the one of the training."""
        return mask

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        axis = feature_axis(self.layout)
        moved = h.movedim(axis, -1)
        tokens = moved.reshape(len(h), -1, moved.shape[-1])
        scores = self._scores(tokens, generator).to(torch.promote_types(h.dtype, torch.float32))
        sent = self.mask.apply(tokens, self.mask.gains(scores).to(h), self.pruner)
        return sent.reshape(moved.shape).movedim(-1, axis)

    def _scores(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        if self.mask.scores == "random":
            return torch.rand(len(tokens), tokens.shape[2], generator=generator).to(tokens.device)
        return self.pruner.average.expand(len(tokens), -1) if self.mask.scores == "static" else self.pruner(tokens)


class DiscoHard(Disco):
    """Gains of 0 and 1: what is pruned is not sent."""

    @staticmethod
    def variant(mask: Mask) -> Mask:
        return replace(mask, hard=True)


class DiscoWarm(Disco):
    """A soft mask that is soft in float32 too: at temperature 0.3 no gain underflows to 0 for scores like the shipped pruner's."""

    @staticmethod
    def variant(mask: Mask) -> Mask:
        return replace(mask, temperature=0.3)


class DiscoStatic(Disco):
    """The same gains for every message."""

    @staticmethod
    def variant(mask: Mask) -> Mask:
        return replace(mask, scores="static")


class DiscoRandom(Disco):
    """Channels at random, others for every message: the control without a pruner."""

    @staticmethod
    def variant(mask: Mask) -> Mask:
        return replace(mask, scores="random")

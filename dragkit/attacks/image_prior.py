"""LM: likelihood maximisation with a deep image prior (Singh et al. 2021; deep image prior: arXiv 1711.10925).

The image is what an untrained convolutional network makes of a fixed random input, and the network's weights are optimised. The
shape of the network alone prefers photo-like images to snow. Noise on the input, strong at first and gone at the end, keeps it
from settling early. Settings as in the comparison of arXiv 2509.11724: Adam 0.01, noise 5, 1, 0.5 until 50, 75, 87.5 % of 20,000
iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from dragkit.attacks.descent import Pace, Parameters, descend, finish
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.rmle import total_variation
from dragkit.attacks.run import Callback
from dragkit.attacks.threat import ThreatModel
from dragkit.streams import NoiseSource, SeededNoise, image_seeds

NEEDS = ThreatModel(weights=True)


@dataclass(frozen=True)
class ImagePriorConfig:
    """Settings of LM.

    Attributes:
        iterations, lr: of Adam on the network's weights.
        channels: of each level of the network; every level halves the side.
        skip: channels that bypass a level. inputs: channels of the random input.
        noise: standard deviation of the noise on the input and the share of the iterations until which it is added, in order.
        tv: weight of the total variation. image_size: side of the image.
    """

    iterations: int = 20_000
    lr: float = 0.01
    channels: tuple[int, ...] = (16, 32, 64, 128)
    skip: int = 4
    inputs: int = 16
    noise: tuple[tuple[float, float], ...] = ((5.0, 0.5), (1.0, 0.75), (0.5, 0.875))
    tv: float = 0.05
    image_size: int = 64

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("channels is empty; the network needs at least one level")
        factor = 2 ** len(self.channels)
        if self.image_size % factor:
            raise ValueError(
                f"image_size is {self.image_size}; {len(self.channels)} levels need a multiple of {factor}"
            )
        shares = [share for _, share in self.noise]
        if shares != sorted(shares) or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"noise is {self.noise}; its shares must rise and lie in (0, 1]")

    @classmethod
    def paper(cls) -> ImagePriorConfig:
        return cls()

    @classmethod
    def fast(cls) -> ImagePriorConfig:
        """A network of three levels, 400 iterations."""
        return cls(iterations=400, channels=(16, 32, 64))

    def with_(self, **changes: object) -> ImagePriorConfig:
        """A copy with some fields changed (checked like the constructor's)."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def noise_at(self, iteration: int) -> float:
        """Standard deviation of the input's noise at an iteration; 0 after the last share."""
        done = iteration / self.iterations
        return next((level for level, share in self.noise if done < share), 0.0)


EVEN = 16  # CPU kernels of grouped convolutions (one group per photo) are slow unless channels are multiples of it


class Unit(nn.Module):
    """Convolution, normalisation of each channel over the image, leaky ReLU. Channels of zeros make the convolution fast."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        more = (0, 0, 0, 0, 0, -x.shape[1] % EVEN)
        x = F.conv2d(F.pad(x, more), F.pad(self.conv.weight, more), self.conv.bias, padding=self.conv.padding)
        return F.leaky_relu(self.norm(x), 0.2)


class SkipNetwork(nn.Module):
    """The hourglass of the deep image prior: down by averaging, up by repeating, a narrow bypass at every level."""

    def __init__(self, config: ImagePriorConfig):
        super().__init__()
        widths = (config.inputs, *config.channels)
        self.bypass = nn.ModuleList(Unit(w, config.skip, 1) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Sequential(Unit(a, b, 3), Unit(b, b, 3)) for a, b in pairwise(widths))
        above = (*config.channels[1:], config.channels[-1])  # width of what comes up from the level below
        self.up = nn.ModuleList(
            nn.Sequential(Unit(a + config.skip, b, 3), Unit(b, b, 1))
            for a, b in zip(above, config.channels, strict=True)
        )
        self.out = nn.Conv2d(config.channels[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(B, inputs, S, S)` to images `(B, 3, S, S)` in [0, 1]."""
        kept = []
        for bypass, down in zip(self.bypass, self.down, strict=True):
            kept.append(bypass(x))
            x = down(F.avg_pool2d(x, 2))
        for up, side in zip(reversed(self.up), reversed(kept), strict=True):
            x = up(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), side], 1))
        return torch.sigmoid(self.out(x))


def deep_image_prior(
    message: Message,
    config: ImagePriorConfig | None = None,
    *,
    seeds: int | Sequence[int] = 3407,
    noise: NoiseSource | None = None,
    threat: ThreatModel = NEEDS,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos by optimising, for each one, a network that draws it.

    Args:
        message: what the attacker holds.
        config: `ImagePriorConfig.fast()` when None. seeds: of the networks' first weights and of the noise.
        noise, threat, callback, checkpoint: as in `drag`; the callback gets a `DescentState`.

    Returns:
        `Reconstruction` with images `(B, 3, config.image_size, config.image_size)`; its nfe counts calls of the client.

    Raises:
        ValueError: the checkpoint belongs to another attack. PermissionError: the threat model excludes this one.
    """
    config = config or ImagePriorConfig.fast()
    threat.require(NEEDS, "LM")
    h = message.h
    chosen = image_seeds(seeds, len(h))
    noise = noise or SeededNoise(chosen, h.dtype, h.device)
    shape = (config.inputs, config.image_size, config.image_size)
    fixed = torch.special.ndtr(noise.draw(shape))  # uniform in [0, 1]
    network, weights = first_weights(config, chosen, h)

    def draw_one(flat: Tensor, x: Tensor) -> Tensor:
        return functional_call(network, unflatten(flat, network), (x[None],))[0]

    def render(p: Parameters, iteration: int) -> tuple[Tensor, Tensor]:
        level = config.noise_at(iteration)
        x = fixed + level * noise.draw(shape) if level > 0 else fixed
        images = vmap(draw_one)(p["weights"], x)
        return images, config.tv * total_variation(images)

    state, stopped = descend(
        message,
        {"weights": weights},
        render,
        Pace(config.iterations, config.lr),
        noise,
        ("LM", config, *noise.state().values()),
        callback=callback,
        checkpoint=checkpoint,
    )
    return finish(state, message, render, stopped, threat)


def first_weights(config: ImagePriorConfig, seeds: Sequence[int], like: Tensor) -> tuple[SkipNetwork, Tensor]:
    """The network's shape, and the first weights of one network per seed, `(B, P)`, with dtype and device of `like`.

    All weights of a network lie in one vector, so that Adam moves them with a dozen operations instead of a thousand.
    """
    drawn: list[Tensor] = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = SkipNetwork(config)
        drawn.append(parameters_to_vector(network.parameters()).detach())
    return network.to(like), torch.stack(drawn).to(like)


def unflatten(weights: Tensor, network: SkipNetwork) -> Parameters:
    """A vector `(P,)` as the network's parameters by name."""
    named = dict(network.named_parameters())
    parts = weights.split([p.numel() for p in named.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}

"""The adversarial prior of GLASS: a small style-based generator, and the encoder that starts its search.

z (Gaussian) -> mapping -> w (a style) -> synthesis -> image, after StyleGAN2 (arXiv 1912.04958). A style per layer makes W+
(arXiv 1904.03189), `(B, num_layers, style_dim)`, where photos are searched for. There is no noise input: one w+, one image.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as nnf
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

GAIN = math.sqrt(2)  # leaky ReLU halves the variance, nearly


class StyleGenerator(ModelMixin, ConfigMixin):
    """Styles to images of `4 * 2 ** (len(channels) - 1)` pixels.

    Args:
        channels: of the feature maps at 4, 8, 16, ... pixels.
        latent_dim, style_dim: of z and w. mapping_layers: depth of the network between them.

    Attributes:
        num_layers: L, styles of one image: one per convolution and one for the colours.
        w_mean, w_std: `(style_dim,)`, of w over random z; `update_statistics` measures them.

    Raises:
        ValueError: channels that are no positive integers, or fewer than two.
    """

    w_mean: Tensor
    w_std: Tensor

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (128, 128, 96, 64, 32),
        latent_dim: int = 128,
        style_dim: int = 128,
        mapping_layers: int = 4,
    ):
        super().__init__()
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(
                f"channels is {channels}; it must be two or more positive numbers, for 4, 8, 16, ... pixels"
            )
        self.latent_dim, self.style_dim = latent_dim, style_dim
        self.image_size = 4 * 2 ** (len(channels) - 1)
        self.num_layers = 2 * len(channels)
        widths = [latent_dim] + [style_dim] * mapping_layers
        self.mapping_network = nn.ModuleList(_linear(a, b) for a, b in itertools.pairwise(widths))
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.first = StyledConv(channels[0], channels[0], style_dim)
        pairs = list(itertools.pairwise(channels))
        self.up = nn.ModuleList(StyledConv(a, b, style_dim, up=True) for a, b in pairs)
        self.flat = nn.ModuleList(StyledConv(b, b, style_dim) for _, b in pairs)
        self.colours = nn.ModuleList(Colours(c, style_dim) for c in channels)
        self.register_buffer("w_mean", torch.zeros(style_dim))
        self.register_buffer("w_std", torch.ones(style_dim))

    def mapping(self, z: Tensor, psi: float = 1.0) -> Tensor:
        """Styles `(B, style_dim)` of latents `z` `(B, latent_dim)`, ~ N(0, 1).

        Args:
            psi: truncation (arXiv 1812.04948): 1 keeps w, 0 gives `w_mean`.
        """
        self._expect(z, (self.latent_dim,), "z")
        w = z.to(self.dtype)
        w = w * (w.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping_network:
            w = nnf.leaky_relu(layer(w), 0.2) * GAIN
        return (w if psi == 1 else torch.lerp(self.w_mean, w, psi)).to(z.dtype)

    def broadcast(self, w: Tensor) -> Tensor:
        """The same style for every layer: `(B, style_dim)` to `(B, num_layers, style_dim)`."""
        return w[:, None].expand(-1, self.num_layers, -1)

    def synthesis(self, w_plus: Tensor) -> Tensor:
        """Images `(B, 3, S, S)` of styles `w_plus` `(B, num_layers, style_dim)`, about [0, 1] but not clamped; differentiable."""
        self._expect(w_plus, (self.num_layers, self.style_dim), "w_plus")
        styles = w_plus.to(self.dtype).unbind(1)
        x = self.constant.expand(len(w_plus), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.first(x, styles[0])
        rgb = self.colours[0](x, styles[1])
        for i, (up, flat, colour) in enumerate(zip(self.up, self.flat, self.colours[1:], strict=True)):
            x = flat(up(x, styles[2 * i + 1]), styles[2 * i + 2])
            rgb = _double(rgb) + colour(x, styles[2 * i + 3])
        return rgb.to(w_plus.dtype) / 2 + 0.5

    def forward(self, z: Tensor, psi: float = 1.0) -> Tensor:
        """Images `(B, 3, S, S)`, about [0, 1] but not clamped, of latents `z` `(B, latent_dim)`."""
        return self.synthesis(self.broadcast(self.mapping(z, psi)))

    @torch.no_grad()
    def update_statistics(self, n: int = 10_000, seed: int = 0) -> None:
        """Measure `w_mean` and `w_std` on `n` random z."""
        z = torch.randn(n, self.latent_dim, generator=torch.Generator().manual_seed(seed))
        w = self.mapping(z.to(self.device))
        self.w_mean.copy_(w.mean(0))
        self.w_std.copy_(w.std(0))

    def _expect(self, x: Tensor, shape: tuple[int, ...], name: str) -> None:
        if tuple(x.shape[1:]) != shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; this generator takes (B, {', '.join(map(str, shape))})"
            )


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style and whose output channels are brought back to unit variance.

    Scaling activations before and after one shared convolution equals scaling its weights per image (arXiv 1912.04958, eq. 3),
    and every image of a batch gets what it would get alone.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, kernel: int = 3, demodulate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = nn.Linear(style_dim, inputs)
        nn.init.ones_(self.style.bias)
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Maps `x` `(B, inputs, H, W)` and styles `w` `(B, style_dim)` to `(B, outputs, H, W)`."""
        scale = self.style(w)
        y = nnf.conv2d(x * scale[:, :, None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            # A sum of products, not a matrix product: autocast would round that to bfloat16.
            energy = (scale.float().square()[:, None] * self.weight.float().square().sum((2, 3))).sum(2)
            y = y * (energy + 1e-8).rsqrt()[:, :, None, None].to(y.dtype)
        return y + self.bias[:, None, None].to(y.dtype)


class StyledConv(nn.Module):
    """A modulated 3x3 convolution and a leaky ReLU; with `up`, twice the resolution in between."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, up: bool = False):
        super().__init__()
        self.conv, self.up = ModulatedConv(inputs, outputs, style_dim), up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.conv(x, w)
        return nnf.leaky_relu(_double(x) if self.up else x, 0.2) * GAIN


class Colours(ModulatedConv):
    """Maps to red, green and blue; those of all resolutions are added up, and begin within the range of a photo."""

    def __init__(self, inputs: int, style_dim: int):
        super().__init__(inputs, 3, style_dim, kernel=1, demodulate=False)
        nn.init.normal_(self.weight, std=0.2 / math.sqrt(inputs))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Keeps the variance, so that w depends on z from the first step on."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs))
    nn.init.zeros_(layer.bias)
    return layer


def _double(x: Tensor) -> Tensor:
    return nnf.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class WEncoder(ModelMixin, ConfigMixin):
    """Intermediate representations to W+: the first guess of GLASS++. A small transformer with one query per layer's style.

    Args:
        tokens, features: N and D of the IRs as tokens. num_layers, style_dim: of the generator.
        width, depth, heads: of the transformer.
        client, at: name and cut of the client whose IRs it was trained on.
    """

    w_mean: Tensor
    w_std: Tensor

    @register_to_config
    def __init__(
        self,
        tokens: int,
        features: int,
        num_layers: int = 10,
        style_dim: int = 128,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        client: str = "",
        at: str = "",
    ):
        super().__init__()
        self.tokens, self.features, self.num_layers = tokens, features, num_layers
        self.norm, self.embed = nn.LayerNorm(features), nn.Linear(features, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.queries = nn.Parameter(0.02 * torch.randn(1, num_layers, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, style_dim))
        self.register_buffer("w_mean", torch.zeros(style_dim))
        self.register_buffer("w_std", torch.ones(style_dim))

    def forward(self, h: Tensor) -> Tensor:
        """Tokens `h` `(B, N, D)` to styles `(B, num_layers, style_dim)`."""
        if tuple(h.shape[1:]) != (self.tokens, self.features):
            raise ValueError(f"h is {tuple(h.shape)}; this encoder takes tokens (B, {self.tokens}, {self.features})")
        x = self.embed(self.norm(h.to(self.dtype))) + self.positions
        x = torch.cat([self.queries.expand(len(h), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return (self.w_mean + self.w_std * self.out(x[:, : self.num_layers])).to(h.dtype)

"""Inverse network: a decoder trained to turn intermediate representations back into photos (He et al., ACSAC 2019).

A network that minimises the squared error learns the posterior mean of the photo, E[x | h]: blurred where `h` leaves the photo
open, and the best there is in PSNR. The decoder is the one of the comparison in arXiv 2509.11724, a small transformer over the
tokens. It needs no gradient at attack time, and its answer is where DRAG++ starts (`dragkit.attacks.dragpp`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dragkit.attacks.problem import check_ir, check_mask
from dragkit.client import SplitClient
from dragkit.distance import Distance, cosine_distance
from dragkit.reconstruction import Reconstruction
from dragkit.threat import ThreatModel

NEEDS = ThreatModel(weights=True, public_data=True)


@dataclass(frozen=True)
class InverseConfig:
    """The attack has no settings: all there is to choose was chosen when the network was trained."""


@dataclass(frozen=True)
class InverseShape:
    """What an inverse network is made for, and how large it is.

    Attributes:
        token_width, num_tokens: D and N of `client.tokens(h)`; `prefix_tokens` of the N come before the patch tokens.
        image_size: side S of the images; the patch tokens form a square grid whose side divides it.
        width, depth, heads: of the transformer.
        client, split: name and split point of the client whose representations it was trained on.
        drop: share of the tokens that were missing in training; with 0 the mask token has learned nothing.
    """

    token_width: int
    num_tokens: int
    prefix_tokens: int = 0
    image_size: int = 64
    width: int = 192
    depth: int = 2
    heads: int = 4
    client: str = ""
    split: str = ""
    drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("token_width", "num_tokens", "image_size", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.prefix_tokens < self.num_tokens:
            raise ValueError(f"prefix_tokens is {self.prefix_tokens}; it must be below num_tokens, {self.num_tokens}")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of heads, {self.heads}")
        patches = self.num_tokens - self.prefix_tokens
        if self.grid**2 != patches:
            raise ValueError(f"there are {patches} patch tokens; they must form a square grid, such as 8 x 8 = 64")
        if self.image_size % self.grid:
            raise ValueError(
                f"image_size is {self.image_size}; it must be a multiple of the grid's side, {self.grid} tokens"
            )
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must be at least 0 and below 1")

    @property
    def grid(self) -> int:
        """Patch tokens along a side."""
        return math.isqrt(self.num_tokens - self.prefix_tokens)

    @property
    def patch(self) -> int:
        """Pixels along the side of the patch that a token becomes."""
        return self.image_size // self.grid


class InverseNetwork(nn.Module):
    """Transformer from tokens `(B, N, D)` to images `(B, 3, S, S)` in [0, 1].

    Tokens are standardised per feature, projected, given a learned position, mixed by pre-norm encoder layers, and each patch
    token becomes the pixels of its patch. Prefix tokens (CLS) take part in the attention and are dropped at the end.

    Raises:
        ValueError: from `InverseShape`, see there.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: InverseShape):
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.token_width))
        self.register_buffer("std", torch.ones(shape.token_width))
        self.embed = nn.Linear(shape.token_width, shape.width)
        self.position = nn.Parameter(0.02 * torch.randn(1, shape.num_tokens, shape.width))
        self.mask_token = nn.Parameter(torch.zeros(shape.width))
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, 4 * shape.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, shape.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, 3 * shape.patch**2)
        nn.init.constant_(self.head.bias, 0.5)  # begin with a grey image

    @classmethod
    def for_client(
        cls,
        client: SplitClient,
        image_size: int = 64,
        width: int = 192,
        depth: int = 2,
        heads: int = 4,
        drop: float = 0.0,
    ) -> InverseNetwork:
        """A fresh network that fits the tokens of `client`."""
        _, n, d = client.tokens(torch.empty(1, *client.h_shape)).shape
        prefix = client.layout.prefix_tokens
        return cls(InverseShape(d, n, prefix, image_size, width, depth, heads, client.name, client.split, drop))

    @torch.no_grad()
    def standardise_on(self, tokens: Tensor) -> None:
        """Take mean and standard deviation of every feature from training tokens `(B, N, D)`.

        Rounded to half precision, in which they are shipped. A feature that hardly varies is not blown up.

        Raises:
            ValueError: the tokens do not vary at all.
        """
        flat = tokens.reshape(-1, tokens.shape[-1]).double()
        std = flat.std(0)
        if not std.mean() > 0:
            raise ValueError("tokens are all the same (or NaN); a photo cannot be read from them")
        self.mean.copy_(flat.mean(0).half())
        self.std.copy_(std.clamp_min(1e-2 * std.mean()).half())

    def predict(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Like `forward`, but not clamped: what the training compares with the photo."""
        self._check(tokens, mask)
        x = self.embed((tokens.to(self.mean) - self.mean) / self.std)
        if mask is not None:
            x = torch.where(mask[..., None], x, self.mask_token.to(x.dtype))
        x = self.blocks(x + self.position)[:, self.shape.prefix_tokens :]
        pixels = self.head(self.norm(x)).to(self.mean)
        g, p = self.shape.grid, self.shape.patch
        return pixels.view(-1, g, g, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, g * p, g * p)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Images `(B, 3, S, S)` in [0, 1].

        Args:
            tokens: `(B, N, D)`, any floating-point type. mask: which of them arrived, bool `(B, N)`; None means all.

        Raises:
            TypeError, ValueError: tokens of another shape, a mask that is not bool or does not fit.
        """
        return self.predict(tokens, mask).clamp(0, 1)

    def _check(self, tokens: Tensor, mask: Tensor | None) -> None:
        n, d = self.shape.num_tokens, self.shape.token_width
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (n, d):
            raise ValueError(f"tokens are {tuple(tokens.shape)}; this network takes (B, {n}, {d})")
        check_mask(mask, tokens)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.safetensors` (in the precision the weights have now) and `config.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.shape), indent=1) + "\n")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> InverseNetwork:
        """Load what `save_pretrained` wrote, frozen and in eval mode.

        Raises:
            FileNotFoundError: a file is missing. ValueError: the configuration is not that of an inverse network.
        """
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text())
        try:
            network = cls(InverseShape(**config))
        except TypeError as error:
            raise ValueError(f"{folder / 'config.json'} does not describe an inverse network: {error}") from error
        network.load_state_dict(load_file(folder / "model.safetensors"))
        return network.to(device=device, dtype=dtype).eval().requires_grad_(False)


@torch.no_grad()
def inverse(
    h: Tensor,
    client: SplitClient,
    prior: InverseNetwork,
    config: InverseConfig | None = None,
    *,
    mask: Tensor | None = None,
    distance: Distance = cosine_distance,
    seeds: int | Sequence[int] = 3407,
    threat: ThreatModel = NEEDS,
    callback: Callable[[Any], bool | None] | None = None,
    checkpoint: str | Path | None = None,
) -> Reconstruction:
    """Rebuild photos by one pass through a network that was trained for this client.

    Args:
        h: what the server received, `(B, *client.h_shape)`. float64 gives float64 images, anything else float32.
        client: the cut model; it only measures how far the answer is from `h`.
        prior: what the attacker knows about photos: the trained network.
        config: `InverseConfig()` when None; there is nothing to set.
        mask: which tokens of `h` arrived, bool `(B, N)`; None means all.
        distance: what the result reports; the answer does not depend on it.
        threat: what the attacker is declared to have; refused without public photos, which the training needs.
        seeds, callback, checkpoint: unused, here for the keywords all attacks share: nothing is random, there are no steps.

    Returns:
        `Reconstruction` with images `(B, 3, S, S)` at the network's size; `nfe` is 1, the network itself.

    Raises:
        ValueError: `h` does not come from this client, the network was made for another one, or tokens are missing and the
            network has never seen that. PermissionError: the threat model excludes the attack.
    """
    threat.require(NEEDS, "the inverse network")
    h = check_ir(h, client)
    _check_network(prior, client, mask)
    started = time.perf_counter()
    target = client.tokens(h)
    images = prior(target, mask).to(h.dtype)
    seconds = time.perf_counter() - started
    measured = distance(client.tokens(client(images)).to(h.dtype), target, mask)
    fine = torch.isfinite(images.flatten(1)).all(1) & torch.isfinite(measured)
    failed = [None if ok else 0 for ok in fine.tolist()]
    return Reconstruction(images.nan_to_num(0.5), measured, 1, seconds, threat, failed)


def _check_network(network: InverseNetwork, client: SplitClient, mask: Tensor | None) -> None:
    shape = network.shape
    if (shape.client, shape.split) != (client.name, client.split):
        raise ValueError(
            f"prior is an inverse network for {shape.client} at {shape.split}, but the client is {client.name} at "
            f"{client.split}; train one for it: dragkit train inverse --client {client.name} --split {client.split}"
        )
    if mask is not None and shape.drop == 0 and not mask.all():
        raise ValueError(
            "mask says that tokens are missing, but this inverse network was trained on whole representations; train "
            "one with --drop above 0"
        )

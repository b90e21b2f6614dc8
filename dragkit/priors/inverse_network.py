"""The inverse network: a small transformer that turns tokens back into a photo (He et al., ACSAC 2019)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dragkit.client import SplitClient
from dragkit.distance import check_mask


@dataclass(frozen=True)
class InverseShape:
    """What an inverse network is made for, and how large it is.

    Attributes:
        token_width, num_tokens: D and N of `client.tokens(h)`; `prefix_tokens` of the N come before the patch tokens.
        image_size: side S of the images; the patch tokens form a square grid whose side divides it.
        width, depth, heads: of the transformer.
        client, at: name and cut of the client whose representations it was trained on.
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
    at: str = ""
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
        return cls(InverseShape(d, n, prefix, image_size, width, depth, heads, client.name, client.at, drop))

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
        if "split" in config:  # what the cut was called in runs from before
            config["at"] = config.pop("split")
        try:
            network = cls(InverseShape(**config))
        except TypeError as error:
            raise ValueError(f"{folder / 'config.json'} does not describe an inverse network: {error}") from error
        network.load_state_dict(load_file(folder / "model.safetensors"))
        return network.to(device=device, dtype=dtype).eval().requires_grad_(False)

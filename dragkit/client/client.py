"""`SplitClient`: the half of a vision model that runs on the phone, from an image in [0, 1] to the IR that is sent.

It owns what lies between a photo and the network (resize, clamp, normalise), declares how its IR is laid out, and can
run the server half from an IR. The cut itself is in `cut.py`, the loading of published models in `pretrained.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from dragkit.client.cut import Cut, block_names, block_path, resolve
from dragkit.client.pretrained import Library, load_pretrained
from dragkit.images import Resampling, resize_images

__all__ = ["Layout", "SplitClient", "block_path", "resize_images"]

Axes = Literal["BND", "BCHW", "BHWC", "BD"]

DIMS: dict[Axes, int] = {"BD": 2, "BND": 3, "BCHW": 4, "BHWC": 4}


@dataclass(frozen=True)
class Layout:
    """How to read an IR.

    Attributes:
        kind: axes in order: "BND" tokens, "BCHW" or "BHWC" maps, "BD" vectors.
        prefix_tokens: tokens in front of the patch tokens (CLS, registers); 0 for maps.
        permutation_equivariant: whether the *server* gives the same answer when patch tokens arrive in another order. A
            ViT does (position embeddings come before the cut); Swin, Mixer, convolutions, rotary embeddings do not.
    """

    kind: Axes
    prefix_tokens: int
    permutation_equivariant: bool


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


class SplitClient(nn.Module):
    """A vision model cut at a named layer: `client(images) -> h`, `client.server(h) -> the model's output`.

    The model is put in eval mode and frozen, in place; gradients flow to the images only. A cut that something bypasses
    is refused. The halves run through hooks on the model: do not use one client from two threads at once.

    Args:
        model: any `nn.Module` that takes a batch of normalised images `(B, 3, H, W)`.
        at: a module name (cut after it), `"block:k"` (after block k; `block:0` is the embeddings), `"input:NAME"`.
        image_size: side or (height, width) that the model takes.
        mean, std: of the normalisation, one number per channel, for images in [0, 1].
        interpolation: "bilinear" or "bicubic", of the (antialiased) resize.
        layout: "auto" or one of "BND", "BCHW", "BHWC", "BD".
        prefix_tokens: None works it out from the patch size of the model.
        permutation_equivariant: None measures it on two random images, when `layout` is first read.
        check: prove on random images that `server(client(x)) == model(x)`.
        name: for people; the model's class by default.

    Raises:
        ValueError: unknown module, a cut that is bypassed or runs more than once, NaN weights, a layout we cannot tell.
        TypeError: not a module, not a string.
    """

    def __init__(
        self,
        model: nn.Module,
        at: str,
        *,
        image_size: int | tuple[int, int],
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        interpolation: Resampling = "bilinear",
        layout: Axes | Literal["auto"] = "auto",
        prefix_tokens: int | None = None,
        permutation_equivariant: bool | None = None,
        check: bool = True,
        name: str = "",
    ):
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
        if interpolation not in get_args(Resampling):
            raise ValueError(f"interpolation is {interpolation!r}; it must be one of {', '.join(get_args(Resampling))}")
        if layout != "auto" and layout not in DIMS:
            raise ValueError(f"layout is {layout!r}; it must be 'auto' or one of {', '.join(DIMS)}")
        self.image_size = _pair(image_size)
        self.mean, self.std = _channels("mean", mean), _channels("std", std)
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; every channel must be positive")
        self.interpolation, self.name = interpolation, name or type(model).__name__
        self.at, self.module = at, resolve(model, at)
        _refuse_broken_weights(model)
        self.model = model.eval().requires_grad_(False)
        self.cut = Cut(model, self.module, self._random_input(2, seed=0))
        if check:
            self.cut.check(self._random_input(3, seed=1))
        self.h_shape: tuple[int, ...] = self.cut.h_shape
        self._kind = _guess_kind(self.cut, self.image_size) if layout == "auto" else layout
        if DIMS[self._kind] != len(self.h_shape) + 1:
            raise ValueError(
                f"layout is {self._kind!r}, but the IR at {self.module} has the shape {self.h_shape} per image"
            )
        self._prefix = self._count_prefix_tokens() if prefix_tokens is None else prefix_tokens
        if self._prefix and not (self._kind == "BND" and 0 < self._prefix < self.h_shape[0]):
            raise ValueError(f"prefix_tokens is {self._prefix}, but the IR is {self._kind}, {self.h_shape} per image")
        self._equivariant = permutation_equivariant

    # -- the two halves

    def resize(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W)` -> `(B, 3, *image_size)`: differentiable, not clamped, the identity at equal size."""
        return resize_images(images, self.image_size, self.interpolation)

    def forward(self, images: Tensor) -> Tensor:
        """What the phone sends: images `(B, 3, H, W)` of any size -> IR `h` `(B, *h_shape)`, in the model's dtype.

        Values outside [0, 1] are clamped and NaN passes through, so that one image that fails in a gradient loop does
        not stop the others of its batch; check photos where they are loaded. Nothing after the cut runs.

        Raises:
            TypeError, ValueError: not a float tensor `(B, 3, H, W)`.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = f"a {images.dtype} tensor" if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise TypeError(f"images is {kind}; it must be a float tensor (B, 3, H, W) in [0, 1]")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images has the shape {tuple(images.shape)}; it must be (B, 3, H, W)")
        x = self.resize(images).clamp(0, 1)
        mean, std = (_per_channel(values, x.dtype, x.device) for values in (self.mean, self.std))
        return self.cut.run_client(((x - mean) / std).to(self.dtype))

    def server(self, h: Tensor) -> Tensor:
        """The rest of the model: IR `h` `(B, *h_shape)` -> the model's first output (logits, embedding or tokens).

        A server that ignores the order of its patch tokens also takes fewer of them, `(B, n, D)`.

        Raises:
            ValueError: an IR of another shape, or of fewer tokens for a server that needs them all.
        """
        if not isinstance(h, Tensor) or (tuple(h.shape[1:]) != self.h_shape and not self._takes_fewer(h)):
            given = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
            raise ValueError(f"h is {given}; this client's IR is (B, {', '.join(map(str, self.h_shape))})")
        return self.cut.run_server(h.to(self.dtype))

    def _takes_fewer(self, h: Tensor) -> bool:
        """Whether `h` is some of the tokens, and the server does not mind."""
        fits = self._kind == "BND" and h.ndim == 3 and h.shape[2] == self.h_shape[1]
        return fits and self._prefix < h.shape[1] < self.h_shape[0] and self.layout.permutation_equivariant

    def free_server(self) -> int:
        """Drop the server's weights, for good. Returns how many parameters that was."""
        _ = self.layout  # measuring it needs the server
        return self.cut.free_server()

    def train(self, mode: bool = True) -> SplitClient:
        """Does nothing: a client is always in eval mode."""
        return self

    # -- what the IR looks like

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model's weights (float32 if it has none)."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Device of the model's weights (CPU if it has none)."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def layout(self) -> Layout:
        """How to read the IR. The first read may run the server, to measure whether it is permutation-equivariant."""
        if self._equivariant is None:
            self._equivariant = self.measure_equivariance()
        return Layout(self._kind, self._prefix, self._equivariant)

    def tokens(self, h: Tensor) -> Tensor:
        """The IR as `(B, N, D)`: a token per patch or map position, prefix tokens first; N = 1 for vectors."""
        if self._kind == "BCHW":
            h = h.permute(0, 2, 3, 1)
        return h[:, None] if self._kind == "BD" else h.flatten(1, -2)

    def blocks(self) -> list[str]:
        """Names of the model's blocks: `block:k` is the k-th of them."""
        return block_names(self.model)

    def info(self) -> dict[str, Any]:
        """Facts for a table: name, cut, layout, IR shape, bytes sent per query, parameters on each side."""
        client, server = self.cut.parameter_counts()
        return {
            "name": self.name,
            "at": self.at,
            "module": self.module,
            "image_size": self.image_size,
            "layout": self.layout,
            "h_shape": self.h_shape,
            "bytes_per_query": math.prod(self.h_shape) * self.dtype.itemsize,
            "client_parameters": client,
            "server_parameters": server,
        }

    def __repr__(self) -> str:
        height, width = self.image_size
        asked = "" if self.at == self.module else f" ({self.at})"
        return (
            f"SplitClient({self.name} at {self.module}{asked}: {height}x{width} image -> {self._kind} {self.h_shape})"
        )

    # -- how that is found out

    def _random_input(self, batch: int, seed: int) -> Tensor:
        """Normalised noise images, as the model takes them; the same on every machine."""
        noise = torch.randn((batch, 3, *self.image_size), generator=torch.Generator().manual_seed(seed))
        return noise.to(self.device, self.dtype)

    def _count_prefix_tokens(self) -> int:
        """Tokens that are not patches: N minus the patch grid, or minus a square when the patch size is unknown."""
        if self._kind != "BND":
            return 0
        n = self.h_shape[0]
        patch = _patch_size(self.model)
        if patch is not None:
            extra = n - (self.image_size[0] // patch[0]) * (self.image_size[1] // patch[1])
            if 0 <= extra <= 16:
                return extra
        for extra in (0, 1, 5):  # nothing, CLS, CLS and four registers
            if math.isqrt(n - extra if n > extra else 2) ** 2 == n - extra:
                return extra
        raise ValueError(f"the IR at {self.module} has {n} tokens, not a square plus 0, 1 or 5: pass prefix_tokens")

    def _permute_patches(self, h: Tensor, order: Tensor) -> Tensor:
        if self._kind == "BCHW":
            return h.flatten(2)[:, :, order].view_as(h)
        if self._kind == "BHWC":
            return h.flatten(1, 2)[:, order].view_as(h)
        return torch.cat([h[:, : self._prefix], h[:, self._prefix :][:, order]], 1)

    @torch.no_grad()
    def measure_equivariance(self) -> bool:
        """Feed the server the patch tokens in another order: same answer (or the same tokens, re-ordered)?"""
        h = self.cut.run_client(self._random_input(2, seed=2))
        n = self.tokens(h).shape[1] - self._prefix
        if self._kind == "BD" or n < 2:
            return False
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(h.device)
        out, moved = self.server(h), self.server(self._permute_patches(h, order))
        want = self._permute_patches(out, order) if out.shape == h.shape else out
        # Re-ordering changes rounding, by about 1e-6 in float32; trained rotary embeddings change the output by 1e-2 and more.
        tolerance = max(5e-5, 4 * torch.finfo(out.dtype).eps)
        return bool((moved - want).abs().max() <= tolerance * out.abs().max())

    # -- loading

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        at: str,
        *,
        library: Library = "auto",
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        image_size: int | tuple[int, int] | None = None,
    ) -> SplitClient:
        """Load a published model, with the image size and normalisation that it was published with.

        Photos are resized whole: the centre crop of some processors is left out.

        Args:
            path_or_name: a folder or hub name, "timm:NAME", "local-dir:FOLDER" (timm), or "torchvision:NAME".
            at: the cut, as in the constructor.
            library: "auto" or "transformers", "timm", "torchvision".
            dtype: of the weights, whatever the file holds.
            device: where the model goes.
            image_size: instead of the published one, where the model allows it.

        Raises:
            OSError: files missing or hub out of reach. ValueError: unknown name, missing weights, and what the
                constructor raises.
        """
        loaded = load_pretrained(str(path_or_name), library, dtype)
        model = loaded.model.to(device=device, dtype=dtype)
        size = loaded.image_size if image_size is None else _pair(image_size)
        if size != loaded.image_size and hasattr(model, "set_input_size"):
            cast(Any, model).set_input_size(img_size=size)  # timm re-samples its position embeddings
        return cls(
            model,
            at,
            image_size=size,
            mean=loaded.mean,
            std=loaded.std,
            interpolation=cast(Resampling, loaded.interpolation),  # another one is refused
            name=loaded.name,
        )


# -- reading a model's shape


def _pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f"image_size is {image_size!r}; it must be a positive side or (height, width)")
    return sides[0], sides[1]


def _channels(name: str, values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} is {values!r}; it must be three finite numbers, one per channel")
    return numbers


def _refuse_broken_weights(model: nn.Module) -> None:
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{kind} {name!r} of {type(model).__name__} holds NaN or Inf; load the weights again")


def _patch_size(model: nn.Module) -> tuple[int, int] | None:
    """Patch size as transformers (config), timm (patch_embed) or torchvision (patch_size) state it."""
    for owner in (getattr(model, "config", None), getattr(model, "patch_embed", None), model):
        patch = getattr(owner, "patch_size", None)
        if isinstance(patch, int):
            return patch, patch
        if isinstance(patch, (tuple, list)) and len(patch) == 2:
            return int(patch[0]), int(patch[1])
    return None


def _guess_kind(cut: Cut, image_size: tuple[int, int]) -> Axes:
    """Axes of the IR from its shape: the two that keep the image's proportions are H and W."""
    shape = cut.h_shape
    if len(shape) != 3:
        if len(shape) not in (1, 2):
            raise ValueError(f"the IR at {cut.at} has the shape {shape} per image; it must have one to three axes")
        return "BD" if len(shape) == 1 else "BND"
    ratio = image_size[0] / image_size[1]
    first, last = (abs(math.log(h / w / ratio)) for h, w in (shape[:2], shape[1:]))
    if first != last:
        return "BHWC" if first < last else "BCHW"
    # C = H = W: the layers tell. A block takes what it gives, so its first layer is enough.
    layers = [module for module in cut.point.modules() if next(module.parameters(recurse=False), None) is not None]
    if cut.before or cut.at in block_names(cut.model):
        layers = layers[:1]
    channels_last = {isinstance(layer, nn.Linear) or type(layer) is nn.LayerNorm for layer in layers}
    if len(channels_last) == 1:
        return "BHWC" if channels_last.pop() else "BCHW"
    raise ValueError(f"the IR at {cut.at} is {shape} per image, channels first or last: pass layout='BCHW' or 'BHWC'")

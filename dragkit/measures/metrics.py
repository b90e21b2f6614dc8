"""How close a reconstruction is to the photo, and how sure one can be of it.

Image metrics take two batches `(B, 3, H, W)` in `[0, 1]` and give one number per image, `(B,)`. They belong to
the person who measures, never to the attack: none is an input of `dragkit.attacks`.

Two quirks of the published DRAG code change what its numbers mean, and both are here under their own names. It feeds LPIPS
images in `[0, 1]` where the network expects `[-1, 1]`: `lpips_official` does the same, `lpips` is the metric as
defined. For its DINO similarity it loads DINO v1 (`facebook/dino-vits16`) as `transformers.ViTModel` and compares
`pooler_output`, for which that class sends the CLS token through a linear layer and tanh. The checkpoint lacks the layer,
so it is random in every process: `dino_similarity_official` draws it from a seed, `dino_similarity` compares CLS tokens.
`transformers.Dinov2Model` does not have the quirk: its `pooler_output` is the CLS token after the final norm.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytorch_msssim
import torch
from torch import Tensor, nn

from dragkit.images import resize_images, validate_images

LABELS = {
    "ms_ssim": "MS-SSIM",
    "ssim": "SSIM",
    "psnr": "PSNR (dB)",
    "mse": "MSE",
    "st_lpips": "ST-LPIPS",
    "lpips": "LPIPS",
    "lpips_official": "LPIPS (published code: input not normalised)",
    "dino_similarity": "DINO similarity",
    "dino_similarity_official": "DINO similarity (published code: random pooler)",
}
"""How each metric is written in tables; ST-LPIPS is not LPIPS and never labelled so."""

DIRECTION = {
    "ms_ssim": "higher",
    "ssim": "higher",
    "psnr": "higher",
    "mse": "lower",
    "st_lpips": "lower",
    "lpips": "lower",
    "lpips_official": "lower",
    "dino_similarity": "higher",
    "dino_similarity_official": "higher",
}
"""Whether a closer reconstruction scores higher or lower."""

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"

ALEXNET_SHA256 = "7be5be79"
"""File name and first digits of the hash of torchvision's ImageNet AlexNet, the trunk of LPIPS."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_MS_SSIM_HALVINGS = 2**4

_CHUNK = 8  # images per pass of a perceptual network: its first maps are 64 channels at nearly full size


class MetricUnavailable(RuntimeError):
    """A metric whose network or weights are not on this machine; the message says how to get them."""


# --- pixels and structure ---------------------------------------------------------------------------------------------


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error per image, `(B,)`; 0 for equal images."""
    x, y = _pair(x, y)
    return (x - y).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 1, per image `(B,)`; infinite for equal images."""
    return -10 * mse(x, y).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity per image `(B,)`, 1 for equal images: Gaussian window 11, sigma 1.5 (Wang et al. 2004).

    https://ieeexplore.ieee.org/document/1284395, computed by pytorch-msssim. Images need a shorter side of 11 or more.
    """
    x, y = _pair(x, y, least_side=11)
    return pytorch_msssim.ssim(x, y, data_range=1.0, size_average=False)


def ms_ssim_window(side: int) -> int:
    """The Gaussian window with which `ms_ssim` fits its five scales into an image of this shorter side.

    The standard window is 11 and needs a side above 160; 7 serves above 96 and 3 above 32. Values taken with different
    windows are not comparable, so report the window with the number.

    Raises:
        ValueError: the side is 32 or less; use `ssim` there.
    """
    for window in (11, 7, 3):
        if side > (window - 1) * _MS_SSIM_HALVINGS:
            return window
    raise ValueError(f"MS-SSIM has five scales and needs images of more than 32 pixels a side, got {side}; use ssim")


def ms_ssim(x: Tensor, y: Tensor, win_size: int | None = None) -> Tensor:
    """Multi-scale structural similarity per image `(B,)`, in [0, 1], 1 for equal images (Wang et al. 2003).

    https://ieeexplore.ieee.org/document/1292216, computed by pytorch-msssim. A measurement, not a loss: where a scale
    is anti-correlated its contribution is cut to 0 and the gradient is not finite.

    Args:
        x: images `(B, 3, H, W)` in [0, 1].
        y: images like `x`.
        win_size: odd window of the Gaussian; default `ms_ssim_window` of the shorter side (3 for 64 pixels).
    """
    x, y = _pair(x, y)
    side = min(x.shape[-2:])
    if win_size is None:
        win_size = ms_ssim_window(side)
    elif win_size < 3 or win_size % 2 == 0 or side <= (win_size - 1) * _MS_SSIM_HALVINGS:
        raise ValueError(
            f"win_size must be odd, 3 or more, with (win_size - 1) * 16 below the shorter side {side}; got {win_size}"
        )
    return pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False, win_size=win_size)


# --- perceptual distances ---------------------------------------------------------------------------------------------


class PerceptualDistance(nn.Module):
    """A weighted squared distance between unit-normalised feature maps of a frozen network (LPIPS and its relatives).

    `d(x, y) = sum_l mean_hw w_l . (phi_l(x) - phi_l(y))^2` with `phi_l` the maps of layer l, each position scaled
    to unit length (Zhang et al. 2018, https://arxiv.org/abs/1801.03924, eq. 1).

    It is differentiable in the images, so it serves as a training loss too. For a fixed target compute
    `target = metric.features(photos)` once and call `metric.compare(metric.features(x), target)`. As a loss it
    accepts what a decoder gives, slightly outside [0, 1]; measurements go through `st_lpips` and `lpips`, which
    validate.

    Args:
        network: provides `scaling_layer`, `net` and `lins`; set to evaluation and frozen here.
        least_side: the smallest image side that its poolings allow.
        label: what results are called.
    """

    def __init__(self, network: nn.Module, *, least_side: int, label: str):
        super().__init__()
        self.network: Any = network.float().eval().requires_grad_(False)
        self.least_side = least_side
        self.label = label

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode: the heads contain dropout, which a surrounding model's `train()` would wake."""
        return super().train(False)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Unit-normalised maps `(B, C_l, H_l, W_l)` of images `(B, 3, H, W)` in about [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < self.least_side:
            raise ValueError(
                f"{self.label} needs images (B, 3, H, W) of at least {self.least_side} pixels a side, "
                f"got {tuple(images.shape)}"
            )
        return tuple(_unit(maps) for maps in self.network.net(self.network.scaling_layer(2 * images - 1)))

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distance `(B,)` between two results of `features`."""
        layers = zip(self.network.lins, a, b, strict=True)
        return torch.stack([head((f - g).square()).mean((1, 2, 3)) for head, f, g in layers]).sum(0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance `(B,)` between images `(B, 3, H, W)` in about [0, 1]."""
        return self.compare(self.features(x), self.features(y))


class StLpips(PerceptualDistance):
    """ST-LPIPS, the shift-tolerant AlexNet metric of Ghildyal and Liu 2022 (https://arxiv.org/abs/2207.13686).

    Its own trained weights come with the wheel `stlpips-pytorch`. Images need 21 pixels a side.

    Raises:
        MetricUnavailable: the package or its weights file is missing.
    """

    def __init__(self) -> None:
        super().__init__(_stlpips_network(), least_side=21, label=LABELS["st_lpips"])


class Lpips(PerceptualDistance):
    """LPIPS v0.1, AlexNet, of Zhang et al. 2018 (https://arxiv.org/abs/1801.03924). Images need 31 pixels a side.

    The heads come with the wheel `lpips`; the trunk is torchvision's ImageNet AlexNet, which no wheel contains.

    Args:
        weights: that file; default: where torch hub keeps it (`TORCH_HOME`). It is never downloaded from here.

    Raises:
        MetricUnavailable: the package or the file is missing, or the file's hash is not the published one. There is no
            fallback on random weights.
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None):
        super().__init__(_lpips_network(_alexnet_file(weights)), least_side=31, label=LABELS["lpips"])


def st_lpips(x: Tensor, y: Tensor) -> Tensor:
    """ST-LPIPS distance per image `(B,)`, 0 for equal images; see `StLpips`."""
    return _in_chunks(_cached_st_lpips, *_pair(x, y, least_side=21))


def lpips(x: Tensor, y: Tensor, weights: str | os.PathLike[str] | None = None) -> Tensor:
    """LPIPS (AlexNet, v0.1) distance per image `(B,)`, 0 for equal images; see `Lpips` for `weights` and errors."""
    x, y = _pair(x, y, least_side=31)
    file = _alexnet_file(weights)
    return _in_chunks(lambda device: _cached_lpips(file, device), x, y)


def lpips_official(x: Tensor, y: Tensor, weights: str | os.PathLike[str] | None = None) -> Tensor:
    """The number that the published DRAG code calls LPIPS: images in [0, 1] go in where [-1, 1] is expected.

    Reported beside `lpips` where published numbers are compared; it sees half of the contrast.
    """
    x, y = _pair(x, y, least_side=31)
    # `Lpips` maps v to 2 v - 1; started from (v + 1) / 2 it hands v itself to the network.
    return lpips((x + 1) / 2, (y + 1) / 2, weights)


@torch.no_grad()
def dino_similarity(
    x: Tensor, y: Tensor, model: nn.Module, *, image_size: int = 224, final_norm: bool = True
) -> Tensor:
    """Cosine similarity of the CLS tokens that a DINO model gives two images, per image `(B,)`, 1 for equal images.

    Images are resized (bicubic, antialiased) and normalised with ImageNet's mean and deviation, as published.

    Args:
        x: images `(B, 3, H, W)` in [0, 1].
        y: images like `x`.
        model: `transformers.Dinov2Model`, or `ViTModel` for DINO v1 (https://arxiv.org/abs/2104.14294), in eval mode.
        image_size: side that the model is fed, a multiple of its patch.
        final_norm: compare tokens after the model's final norm. The published code takes that norm away, so False is what its
            number would be without the random layer.

    Raises:
        ValueError: images that do not correspond, a model in training mode, an image size that does not fit the patch.
        TypeError: a model without `layernorm` and `config.patch_size`.
    """
    a, b = (_dino_cls(images, model, image_size) for images in _pair(x, y))
    if final_norm:
        a, b = (model.get_submodule("layernorm")(cls) for cls in (a, b))
    return nn.functional.cosine_similarity(a.float(), b.float())


@torch.no_grad()
def dino_similarity_official(x: Tensor, y: Tensor, model: nn.Module, seed: int, *, image_size: int = 224) -> Tensor:
    """The number that the published DRAG code calls DINO similarity, `(B,)`: through a pooler that nobody trained.

    `cos(tanh(W cls_x), tanh(W cls_y))` with the CLS token before the final norm, which that code takes away, and `W` drawn
    as `ViTModel` draws the layers that a checkpoint lacks: normal of deviation `config.initializer_range`, no bias. The
    value depends on `seed`, so report several. It is the published quantity, not a published value: the code left the draw to
    the state of the process. A pooler that `model` itself may have is not used.

    Args:
        seed: of `W`. The rest, and what is raised, as in `dino_similarity`; the published model is DINO v1, ViT-S/16.
    """
    a, b = (_dino_cls(images, model, image_size).float() for images in _pair(x, y))
    width = a.shape[1]
    config: Any = model.config
    weight = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)) * config.initializer_range
    a, b = (torch.tanh(cls @ weight.to(cls).T) for cls in (a, b))
    return nn.functional.cosine_similarity(a, b)


def _dino_cls(images: Tensor, model: nn.Module, image_size: int) -> Tensor:
    """CLS token of the last block, before the final norm, `(B, D)`."""
    config: Any = getattr(model, "config", None)
    if not isinstance(getattr(model, "layernorm", None), nn.Module) or not hasattr(config, "patch_size"):
        raise TypeError(f"model is a {type(model).__name__}; it must be transformers' Dinov2Model or ViTModel")
    if model.training:
        raise ValueError("model is in training mode, where dropout may change its answers; call model.eval()")
    if image_size < 1 or image_size % config.patch_size:
        raise ValueError(f"image_size must be a multiple of the model's patch, {config.patch_size}; got {image_size}")
    weight = next(model.parameters())
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (resize_images(images.float(), (image_size, image_size), "bicubic") - mean) / std
    return torch.cat(
        [model(part.to(weight), output_hidden_states=True).hidden_states[-1][:, 0] for part in pixels.split(_CHUNK)]
    )


def _in_chunks(metric_on: Any, x: Tensor, y: Tensor) -> Tensor:
    metric = metric_on(str(x.device))
    pairs = zip(x.float().split(_CHUNK), y.float().split(_CHUNK), strict=True)
    return torch.cat([metric(a, b) for a, b in pairs])


def _unit(maps: Tensor) -> Tensor:
    # Where every channel is 0 the root's gradient is infinite and the product with 0 NaN; the clamp makes it 0.
    length = maps.square().sum(1, keepdim=True).clamp_min(1e-20).sqrt()
    return maps / (length + 1e-10)


@lru_cache(maxsize=4)
def _cached_st_lpips(device: str) -> StLpips:
    with torch.inference_mode(False):  # or a first call under inference mode would make weights no later loss can use
        return StLpips().to(device)


@lru_cache(maxsize=4)
def _cached_lpips(weights: Path, device: str) -> Lpips:
    with torch.inference_mode(False):
        return Lpips(weights).to(device)


def _stlpips_network() -> nn.Module:
    try:
        from stlpips_pytorch import stlpips
    except ImportError as error:
        raise MetricUnavailable(
            f"ST-LPIPS needs the packages stlpips-pytorch and torchsummary, which the former imports ({error}); "
            "install: pip install stlpips-pytorch torchsummary"
        ) from error
    network = stlpips.LPIPS(net="alex", variant="shift_tolerant", pretrained=False, verbose=False)
    file = Path(stlpips.__file__).parent / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
    _load(network, file, may_lack=("lins.",))
    return network


def _lpips_network(alexnet: Path) -> nn.Module:
    try:
        import lpips as package
    except ImportError as error:
        raise MetricUnavailable(f"LPIPS needs the package lpips ({error}); install: pip install lpips") from error
    trunk = _read_alexnet(alexnet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the package uses torchvision's old argument names
        network = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    heads = Path(package.__file__).parent / "weights" / "v0.1" / "alex.pth"
    _load(network, heads, may_lack=("lins.", "net.", "scaling_layer."))
    # The package cuts torchvision's `features` into slices but keeps the layers' numbers: slice2.3 is features.3.
    state = {name: trunk.get(f"features.{name.split('.', 1)[1]}") for name in network.net.state_dict()}
    lacking = [name for name, value in state.items() if value is None]
    if lacking:
        raise MetricUnavailable(f"{alexnet} is not torchvision's AlexNet: layers {lacking} are missing")
    network.net.load_state_dict(state)
    return network


def _alexnet_file(weights: str | os.PathLike[str] | None) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE if weights is None else Path(weights)
    if not file.is_file():
        raise MetricUnavailable(
            f"LPIPS needs torchvision's ImageNet AlexNet and found no file {file}. With a network, fetch it once: "
            "python -c \"import torchvision; torchvision.models.alexnet(weights='IMAGENET1K_V1')\"; else copy "
            f"{ALEXNET_FILE} there or pass weights=PATH. Offline, st_lpips is a perceptual distance without downloads."
        )
    return file


def _read_alexnet(file: Path) -> dict[str, Tensor]:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not digest.startswith(ALEXNET_SHA256):
        raise MetricUnavailable(
            f"{file} is not the published AlexNet: its sha256 starts with {digest[:8]}, expected {ALEXNET_SHA256}"
        )
    return torch.load(file, map_location="cpu", weights_only=True)


def _load(network: nn.Module, file: Path, *, may_lack: tuple[str, ...]) -> None:
    """Load a package's own weights without its loader, which unpickles; refuse any parameter left at random."""
    if not file.is_file():
        raise MetricUnavailable(f"weights file not found: {file}; reinstall the package that should contain it")
    missing, unexpected = network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), strict=False)
    left = [name for name in missing if not name.startswith(may_lack)]
    if left or unexpected:
        raise MetricUnavailable(f"{file} does not fit its network: missing {left}, unexpected {list(unexpected)}")


def _pair(x: Tensor, y: Tensor, *, least_side: int = 1) -> tuple[Tensor, Tensor]:
    """Validate two batches that are compared image by image; half precision is widened to float32."""
    validate_images(x, "x")
    validate_images(y, "y")
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    if x.device != y.device:
        raise ValueError(f"x and y must be on one device, got {x.device} and {y.device}")
    if min(x.shape[-2:]) < least_side:
        raise ValueError(f"x and y must be at least {least_side} pixels a side for this metric, got {tuple(x.shape)}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)

"""Fisher information of a message about its photo: a diagnostic that bounds unbiased attackers only.

For `z = f(x) + N(0, sigma^2 I)` every *unbiased* attacker has `E|x_hat - x|^2 / d >= sigma^2 d / tr(J^T J)` with J the Jacobian
of f (Hannun et al., https://arxiv.org/abs/2102.11673; Guo et al., https://arxiv.org/abs/2201.12383). No attack with a prior is
unbiased: the mean photo, which looks at no message, is below this number as soon as the noise is strong. Never draw it as a
guarantee. Where the message has fewer numbers than the photo, there is no unbiased attacker at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def trace_jtj(
    client: Callable[[Tensor], Tensor], images: Tensor, probes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """tr(J^T J) of the client at each image, and the standard error of the estimate: two `(B,)`.

    E|J^T v|^2 over random signs v in IR space, one backward pass per probe (Hutchinson). Forward mode would do as well but torch
    has none for its fused attention.

    Args:
        client: differentiable, images `(B, ...)` to IRs `(B, ...)`; each IR depends on its own image only.
        images: finite floats `(B, ...)`. A pixel that the client clamps counts as constant.
        probes: at least 2.
        generator: of the signs (CPU).

    Raises:
        ValueError, TypeError: fewer probes, or images that are not finite floats.
    """
    if probes < 2:
        raise ValueError(f"probes is {probes}; it must be at least 2, or the error is unknown")
    if not images.is_floating_point():
        raise TypeError(f"images is {images.dtype}; it must be floats in [0, 1]")
    if not bool(images.isfinite().all()):
        raise ValueError("images holds NaN or infinity")
    found = []
    with torch.enable_grad():
        x = images.detach().requires_grad_(True)
        h = client(x)
        for _ in range(probes):
            v = torch.randint(0, 2, h.shape, generator=generator).to(h) * 2 - 1
            (pulled,) = torch.autograd.grad(h, x, v, retain_graph=True)
            found.append(pulled.double().square().flatten(1).sum(1))
    values = torch.stack(found)
    return values.mean(0), values.std(0) / math.sqrt(probes)


def dfil(trace: Tensor, std: float, d: int) -> Tensor:
    """Diagonal Fisher information leakage tr(J^T J) / (sigma^2 d), per image; its inverse is `crb_mse`.

    Args:
        trace: of `trace_jtj`, `(B,)`.
        std: sigma of the noise.
        d: numbers in a photo.

    Raises:
        ValueError: a std or d that is not positive.
    """
    if not (math.isfinite(std) and std > 0) or d < 1:
        raise ValueError(f"std is {std} and d is {d}; both must be positive")
    return trace / (std**2 * d)


def crb_mse(trace: Tensor, std: float, d: int) -> Tensor:
    """Mean squared error per number that no *unbiased* attacker goes below: sigma^2 d / tr(J^T J), per image; see `dfil`."""
    return 1 / dfil(trace, std, d)


def entropy_cap_psnr(nll_bits_per_dim: float) -> float:
    """The PSNR (dB) that bounds through the entropy of photos cannot exclude, even if the message says nothing.

    Such bounds read MSE >= exp(2 h(X | Z) / d) / (2 pi e), at most exp(2 h(X) / d) / (2 pi e), and a model that needs b bits for
    each 8-bit number shows h(X) / d <= b ln 2 - ln 256. For b = 3 the cap is 42 dB, an almost perfect picture, so such a bound
    cannot certify any defence, not even a message that is always the same.

    Args:
        nll_bits_per_dim: b, a finite number.
    """
    if not math.isfinite(nll_bits_per_dim):
        raise ValueError(f"nll_bits_per_dim is {nll_bits_per_dim}; it must be finite")
    nats = nll_bits_per_dim * math.log(2) - math.log(256)
    return -10 * math.log10(math.exp(2 * nats) / (2 * math.pi * math.e))

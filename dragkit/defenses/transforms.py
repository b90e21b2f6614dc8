"""Secret changes of basis: the features rotated or permuted with a key, and the server's weights changed to match.

With `h' = h Q` and an orthogonal Q, a server whose maps to and from the residual stream are multiplied by Q answers as before:
`W' = W Q` where a map reads the stream, `W' = Q^T W` and `b' = Q^T b` where it writes to it. A LayerNorm commutes with Q exactly
when `Q 1 = 1` (the mean of a token must not change), once its gain and bias are folded into the maps behind it; a permutation is
such a Q. RMSNorm would allow every Q. (Computational invariance: SliceGPT, arXiv 2401.15024; QuaRot, arXiv 2404.00456.)

`receive` multiplies by `Q^T`, which gives the same answers from the weights as they are: running `transformed_server`
on `h'` and running the public server on `receive(h')` are one function. The secret lies in the weights that the operator
holds. Where the public weights are known it is read off them (`recover_rotation`), so these defences hide nothing from the server.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dragkit.client import Layout, SplitClient
from dragkit.client.cut import block_path
from dragkit.defenses.additive import feature_axis
from dragkit.defenses.base import Defence, Family, Utility
from dragkit.defenses.transport import feature_count, whole

READS = {  # in a block of transformers' ViT: a LayerNorm and the maps behind it
    "layernorm_before": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "layernorm_after": ("mlp.fc1",),
}

LAST = {"vit.layernorm": ("classifier",)}

WRITES = ("attention.o_proj", "mlp.fc2")  # the maps that add to the residual stream


@dataclass(frozen=True)
class SecretBasis(Defence):
    """A secret orthogonal change of the features, the same for every message of a client.

    Attributes:
        key: that the secret is drawn from; None for a secret that was recovered from weights.
    """

    key: int | None
    server_knows: ClassVar[str] = "weights in the secret basis"
    utility: ClassVar[Utility] = "exact"
    family: ClassVar[Family] = "secret basis"

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """Q `(D, D)`, float64, with `h' = h Q`."""

    @classmethod
    @abstractmethod
    def recovered(cls, layout: Layout, public: Tensor, hidden: Tensor) -> Self:
        """The defence as the server works it out, from maps `(m, D)` that read the IR: as published, and as it holds them."""

    def hide(self, weights: Tensor) -> Tensor:
        """Maps `(m, D)` that read the IR, as the operator holds them: `W Q`."""
        return weights @ self.matrix.to(weights)


@dataclass(frozen=True)
class Rotation(SecretBasis):
    """Features multiplied by a random orthogonal Q with `Q 1 = 1`, uniform among those.

    Lengths of tokens and angles between them do not change, so an attacker without the weights compares Gram matrices.

    Attributes:
        q: `(D, D)`, float64.
    """

    q: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        key = _key("rotate", value)
        if client.layout.kind != "BND":
            raise ValueError(
                f"rotate needs tokens and a server of linear maps and LayerNorms; this client has {client.layout}"
            )
        return cls(client.layout, key, random_rotation(feature_count(client), key))

    @classmethod
    def recovered(cls, layout: Layout, public: Tensor, hidden: Tensor) -> Self:
        return cls(layout, None, recover_rotation(public, hidden))

    @property
    def matrix(self) -> Tensor:
        return self.q

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        return h @ self.q.to(h)

    def receive(self, h: Tensor) -> Tensor:
        return h @ self.q.T.to(h)


@dataclass(frozen=True)
class FeaturePermutation(SecretBasis):
    """Features in a secret order: `h'[..., j] = h[..., order[j]]`. The values of a token stay what they are.

    Attributes:
        order: int64 `(D,)`.
    """

    order: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, client: SplitClient, value: float | None = None, photos: Tensor | None = None) -> Self:
        key = _key("permute", value)
        generator = torch.Generator().manual_seed(key)
        return cls(client.layout, key, torch.randperm(feature_count(client), generator=generator))

    @classmethod
    def recovered(cls, layout: Layout, public: Tensor, hidden: Tensor) -> Self:
        return cls(layout, None, recover_permutation(public, hidden))

    @property
    def matrix(self) -> Tensor:
        return torch.eye(len(self.order), dtype=torch.float64)[:, self.order]

    def __call__(self, h: Tensor, generator: torch.Generator) -> Tensor:
        return h.index_select(feature_axis(self.layout), self.order.to(h.device))

    def receive(self, h: Tensor) -> Tensor:
        return h.index_select(feature_axis(self.layout), self.order.argsort().to(h.device))


def random_rotation(d: int, key: int) -> Tensor:
    """A random orthogonal Q `(d, d)` with `Q 1 = 1`, float64, uniform (Haar) on the orthogonal complement of 1."""
    generator = torch.Generator().manual_seed(key)
    drawn = torch.randn(2, d, d - 1, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(drawn - drawn.mean(1, keepdim=True))
    bases = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]  # the sign that makes a QR unique, and its Q uniform
    return bases[0] @ bases[1].T + 1 / d


# -- what the operator of the server holds ---------------------------------------------------------------------------


@torch.no_grad()
def first_weights(client: SplitClient) -> Tensor:
    """The first maps after the cut, LayerNorm's gain folded in, stacked: float64 `(m, D)`, m = 3 D for queries, keys and values.

    Raises:
        ValueError: the client is not a ViT of transformers, cut at a block.
    """
    norm, linears = _readers(client)[0]
    return torch.cat([linear.weight.double() * norm.weight.double() for linear in linears]).cpu()


@torch.no_grad()
def transformed_server(client: SplitClient, defence: SecretBasis) -> SplitClient:
    """A copy of the client whose server half takes `h'` and gives the answers of the original.

    Every LayerNorm after the cut loses its gain and bias to the maps behind it; every map that reads the residual stream becomes
    `W Q`, every map that writes to it `Q^T W`. The client half is left as it is.

    Raises:
        ValueError: the client is not a ViT of transformers, cut at a block.
    """
    turned = copy.deepcopy(client)
    q = defence.matrix.to(client.device)
    for norm, linears in _readers(turned):
        for linear in linears:
            weight = linear.weight.double()
            _add_to_bias(linear, weight @ norm.bias.double())
            linear.weight.copy_(weight * norm.weight.double() @ q)
        norm.weight.fill_(1)
        norm.bias.zero_()
    for block in _blocks(turned):
        for linear in (cast(nn.Linear, block.get_submodule(name)) for name in WRITES):
            linear.weight.copy_(q.T @ linear.weight.double())
            linear.bias.copy_(linear.bias.double() @ q)
    return turned


def _add_to_bias(linear: nn.Linear, shift: Tensor) -> None:
    """Raise a map's bias by `shift`; a map that has none gets one."""
    old = 0 if linear.bias is None else linear.bias.double()
    linear.bias = nn.Parameter((old + shift).to(linear.weight), requires_grad=False)


def _blocks(client: SplitClient) -> list[nn.Module]:
    """The blocks of the server half."""
    names = client.blocks()
    cuts = [block_path(client.model, k) for k in range(len(names) + 1)]
    if type(client.model).__name__ != "ViTForImageClassification" or client.module not in cuts:
        raise ValueError(
            f"weights are transformed for transformers' ViTForImageClassification cut at a block; this is {client}"
        )
    return [client.model.get_submodule(name) for name in names[cuts.index(client.module) :]]


def _readers(client: SplitClient) -> list[tuple[nn.LayerNorm, list[nn.Linear]]]:
    """Every LayerNorm of the server half with the maps that read what it gives, in order."""
    places: list[tuple[nn.Module, Mapping[str, Sequence[str]]]]
    places = [*((block, READS) for block in _blocks(client)), (client.model, LAST)]
    return [
        (
            cast(nn.LayerNorm, owner.get_submodule(norm)),
            [cast(nn.Linear, owner.get_submodule(name)) for name in linears],
        )
        for owner, reads in places
        for norm, linears in reads.items()
    ]


# -- and how it finds the secret -------------------------------------------------------------------------------------


def recover_rotation(public: Tensor, transformed: Tensor) -> Tensor:
    """The orthogonal Q with `public Q = transformed`, nearest in least squares (Procrustes): `Q = U V^T` of `public^T transformed`.

    Args:
        public, transformed: maps `(m, D)`; see `first_weights`.

    Returns:
        `(D, D)`, float64.

    Raises:
        ValueError: shapes differ, or the maps do not see every direction, so that they do not determine Q.
    """
    public, transformed = _alike(public, transformed)
    rank = int(torch.linalg.matrix_rank(public))
    if rank < public.shape[1]:
        raise ValueError(
            f"public has rank {rank}; it takes {public.shape[1]}, the number of features, to determine a rotation"
        )
    u, _, vh = torch.linalg.svd(public.T @ transformed)
    return u @ vh


def recover_permutation(public: Tensor, transformed: Tensor) -> Tensor:
    """The order with `public[:, order] = transformed`: columns matched one to one, nearest in total (Hungarian method).

    Args, Raises: as `recover_rotation`; the columns have to differ, their rank does not matter.

    Returns:
        int64 `(D,)`.
    """
    public, transformed = _alike(public, transformed)
    distance = torch.cdist(transformed.T, public.T, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.from_numpy(linear_sum_assignment(distance.numpy())[1])


def _alike(public: Tensor, transformed: Tensor) -> tuple[Tensor, Tensor]:
    if public.shape != transformed.shape or public.ndim != 2:
        raise ValueError(
            f"public is {tuple(public.shape)} and transformed is {tuple(transformed.shape)}; both are maps (m, D) of the same IR"
        )
    return public.double().cpu(), transformed.double().cpu()


def _key(name: str, value: float | None) -> int:
    return whole(name, 0 if value is None else value, 0, 2**31 - 1, "the key")

"""LM's networks with and without channels of zeros, side by side: `python tests/bench/bench_lm.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from bench_drag import alternate
from rich.console import Console
from rich.table import Table
from torch.func import functional_call, vmap

from dragkit.attacks import image_prior
from dragkit.attacks.image_prior import EVEN, ImagePriorConfig, first_weights, unflatten


def main(batch: int = 8) -> None:
    table = Table("network", "ms per iteration, padded", "unpadded", "ratio")
    for name, config in {"paper": ImagePriorConfig.paper(), "fast": ImagePriorConfig.fast()}.items():
        network, weights = first_weights(config, range(batch), torch.zeros(1))
        x = torch.rand(batch, config.inputs, config.image_size, config.image_size)

        def step(even: int, network=network, weights=weights, x=x) -> Callable[[], None]:
            def run() -> None:
                image_prior.EVEN = even
                leaf = weights.detach().requires_grad_()
                drawn = vmap(lambda w, z: functional_call(network, unflatten(w, network), (z[None],))[0])(leaf, x)
                torch.autograd.grad(drawn.square().sum(), leaf)

            return run

        found = alternate({"padded": step(EVEN), "unpadded": step(1)})
        ratio = found["unpadded"] / found["padded"]
        table.add_row(name, *(f"{seconds * 1e3:.0f}" for seconds in found.values()), f"{ratio:.2f}x")
    Console().print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", table)


if __name__ == "__main__":
    main()

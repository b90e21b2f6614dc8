"""Chapter 0, the quickstart: the photos, the film of the attack, and what the numbers of two photos and of a longer run say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dragkit.attacks.drag import DragState
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.data import demo_images
from dragkit.images import grid, load_image
from dragkit.methods import METHODS
from dragkit.priors.prior import Prior
from draglab.pages import pages
from draglab.pages.study import Line, Study
from draglab.pages.widgets import Stepper, stepper


def photos(size: int, own: str = "") -> tuple[list[str], Tensor]:
    """Names and pixels `(n, 3, size, size)` of two demonstration photos, and of the reader's own when `own` is its path."""
    demo = demo_images(size)
    chosen = {name: demo[name] for name in ("astronaut", "coffee")}
    if own:
        chosen["yours"] = load_image(own, size)
    return list(chosen), torch.stack(list(chosen.values()))


def message_in_words(client: SplitClient, h: Tensor) -> Line:
    """Shape, size and first numbers of one message `h` `(tokens, numbers)` of this client, a token for the whole photo first."""
    first = ", ".join(f"{value:.2f}" for value in h[1, :6].tolist())
    return Line(
        f"`{client}`\n\nOne message has the shape {tuple(h.shape)}, that is {h.shape[0]} tokens of {h.shape[1]} numbers, "
        f"{client.info()['bytes_per_query']:,} bytes. The first numbers of its first patch token: {first}."
    )


class Film:
    """Sixteen of the attacker's estimates, kept while the attack runs; it sees the attacker's state, as the attacker could.

    Attributes:
        frames: the photos side by side, `(3, height, width)` each. labels: turn and IR distance of every frame.
    """

    def __init__(self, prior: Prior, count: int = 16) -> None:
        self.prior, self.count = prior, count
        self.frames: list[Tensor] = []
        self.labels: list[str] = []

    def __call__(self, state: DragState) -> None:
        """The callback of `drag`."""
        if state.x0_hat is None or state.distance is None:  # before the first turn
            return
        if state.iteration % (state.total // self.count) == 0:
            with torch.no_grad():
                now = self.prior.decode(state.x0_hat).clamp(0, 1)
            self.frames.append(grid(now, columns=len(now)).cpu())
            self.labels.append(f"turn {state.iteration} of {state.total}, IR distance {state.distance.mean():.3f}")

    def stepper(self, title: str, width: int = 420) -> Stepper:
        """The frames under a slider."""
        return stepper(torch.stack(self.frames), self.labels, title=title, width=width)


def attack_in_words(attack: Reconstruction, config: DragConfig, device: str) -> Line:
    """Who attacked, with which settings of DRAG, and what it cost."""
    return Line(
        f"The attacker: {attack.threat}. {METHODS['drag'].shown(config)} took {attack.nfe} turns and {attack.seconds:.0f} s "
        f"for {len(attack.images)} photos on {device}."
    )


def captions(similarity: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, list[str]]:
    """Photo -> a text under each of its pictures: nothing under the photo, which comes first, then MS-SSIM."""
    others = list(similarity.values())[1:]
    return {name: ["", *(f"{values[i]:.2f}" for values in others)] for i, name in enumerate(names)}


def compared(
    pictures: Mapping[str, Tensor], measures: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Kind of picture -> measure -> its value for every photo, `(n,)`; flat grey pictures first, the photos left out."""
    truth = pictures["photo"]
    kinds = {"flat grey": torch.full_like(truth, 0.45), **{k: v for k, v in pictures.items() if k != "photo"}}
    return {kind: {name: of(images, truth) for name, of in measures.items()} for kind, images in kinds.items()}


def comparison_table(
    values: Mapping[str, Mapping[str, Tensor]], distance: Mapping[str, Tensor], names: Sequence[str]
) -> pages.Table:
    """Means over the photos of what `compared` gives, and of the IR distance where it was measured."""
    measures = list(next(iter(values.values())))
    rows = [
        [kind, *(float(of.mean()) for of in scores.values()), float(distance[kind].mean()) if kind in distance else "-"]
        for kind, scores in values.items()
    ]
    return pages.table([f"means over {', '.join(names)}", *measures, "IR distance"], rows)


def share_read(similarity: Mapping[str, Tensor], names: Sequence[str]) -> Line:
    """How far each reconstruction came from a prior-only picture towards the decoder's ceiling, in MS-SSIM."""
    sentences = []
    for i, name in enumerate(names):
        floor, top, got = (float(similarity[k][i]) for k in ("prior only", "decoder ceiling", "rebuilt from h"))
        if got <= floor:
            sentences.append(
                f"{name}: the reconstruction is no closer to the photo than a prior-only picture. The message was not read."
            )
        else:
            share = (got - floor) / (top - floor)
            sentences.append(
                f"{name}: {share:.0%} of the way from a prior-only picture to the decoder's ceiling, in MS-SSIM."
            )
    return Line("\n\n".join(sentences))


def short_of_the_ceiling(overfit: Study) -> Line:
    """Whether the published settings come close to the decoder's ceiling where nothing but a linear map hides the photo."""
    reached, top = (overfit.rows[name]["ms_ssim"]["mean"] for name in ("DRAG", "decoder ceiling"))
    text = f"The published settings reach {reached:.2f}; the decoder could show {top:.2f}."
    if reached < 0.95 * top:
        text += (
            " They stop well short of it. They were made for a prior with sixteen times as many latent numbers; "
            "the chapter that assembles DRAG asks which setting is to blame."
        )
    return Line(text)

"""A stepper: frames, a slider under them, and nothing that needs a kernel, a network or a mouse.

The element is one piece of HTML with a native `<input type="range">`. It works in Jupyter, on Colab and on a rendered page,
from the keyboard and for screen readers, and several can be on one page.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from draglab.pages import plots

# Shows the frame that the slider names. `this` is the slider; no ids, so that steppers do not meet.
_MOVE = (
    "const f=this.closest('figure'),i=+this.value;"
    "f.querySelectorAll('img').forEach((e,j)=>{e.style.display=j===i?'block':'none'});"
    "const t=f.querySelectorAll('img')[i].dataset.label;"
    "f.querySelector('output').textContent=t;this.setAttribute('aria-valuetext',t)"
)


class Stepper:
    """Frames to step through; made by `stepper`. A notebook shows it as a slider, `figure()` as small multiples."""

    def __init__(self, frames: Tensor, labels: Sequence[str], title: str, width: int):
        self.frames, self.labels, self.title, self.width = frames, list(labels), title, width

    def figure(self, columns: int = 4) -> Figure:
        """All frames at once, for paper and for pages without scripts."""
        return plots.image_grid(self.frames, columns, self.labels)

    def _repr_html_(self) -> str:
        # Own colours: themes put their dark mode's text on a light ground, or the other way round.
        last, title = len(self.labels) - 1, html.escape(self.title)
        shown = "".join(self._image(i, visible=i == last) for i in range(last + 1))
        label = html.escape(self.labels[last])
        slider = (
            f'<input type="range" min="0" max="{last}" step="1" value="{last}" aria-label="{title}" '
            f'aria-valuetext="{label}" style="width:100%;min-height:24px" oninput="{html.escape(_MOVE)}">'
        )
        return (
            f'<figure style="max-width:{self.width}px;margin:1em auto;padding:8px;background:#fff;color:#222">{shown}'
            f'<figcaption style="color:#222">{title}: <output>{label}</output></figcaption>{slider}</figure>'
        )

    def __repr__(self) -> str:
        return f"Stepper({self.title!r}, {len(self.labels)} frames)"

    def _image(self, i: int, *, visible: bool) -> str:
        data = base64.b64encode(_png(self.frames[i])).decode()
        label = html.escape(self.labels[i])
        look = f"display:{'block' if visible else 'none'};width:100%;margin:0;image-rendering:pixelated"
        alt = html.escape(f"{self.title}, {self.labels[i]}"[:250])
        return (
            f'<img class="dark-light pixelated" alt="{alt}" data-label="{label}" style="{look}" '
            f'src="data:image/png;base64,{data}">'
        )


def stepper(frames: Tensor, labels: Sequence[str], *, title: str, width: int = 360) -> Stepper:
    """Step through frames with a slider; the last one is shown first.

    Args:
        frames: `(N, 3, H, W)`; values outside [0, 1] are clamped. Shown without smoothing.
        labels: one short text per frame, such as "turn 12".
        title: what the frames show, for everyone; also the text for those who cannot see them.
        width: of the element in pixels; on a narrower screen it shrinks.

    Raises:
        ValueError: not images, a label missing, no title.
    """
    pixels = plots.to_pixels(frames, "frames")
    if len(labels) != len(pixels):
        raise ValueError(f"labels has {len(labels)} texts; there are {len(pixels)} frames")
    if not title.strip():
        raise ValueError("title is empty; it must say what the frames show")
    return Stepper(frames.detach().float().cpu().clamp(0, 1), labels, title, width)


def _png(frame: Tensor) -> bytes:
    out = io.BytesIO()
    Image.fromarray(plots.to_pixels(frame[None], "frame")[0]).save(out, "PNG", optimize=True)
    return out.getvalue()

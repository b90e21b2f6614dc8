"""What an attacker who knows the defence does about it: a reply turns what was received into what an attack is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dragkit.client import SplitClient
from dragkit.defenses import Defence
from dragkit.distance import Distance, cosine_distance
from dragkit.methods import Knowledge
from dragkit.threat import ThreatModel

AWARE = ThreatModel(weights=True, public_data=True, defence_known=True)


@dataclass(frozen=True)
class Heard:
    """What an attack is given: IR `(B, *client.h_shape)`, which tokens of it arrived, the distance to minimise."""

    h: Tensor
    mask: Tensor | None = None
    distance: Distance = cosine_distance


@dataclass(frozen=True)
class Reply:
    """An attacker's answer to a defence.

    Attributes:
        label: in tables. run: `(messages (k, B, ...), defence, client, known)` to what the attack is given.
    """

    label: str
    run: Callable[[Tensor, Defence, SplitClient, Knowledge], Heard]


def visible(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Compare the tokens that arrived only."""
    return Heard(messages[0], defence.arrived(messages[0]))


REPLIES: dict[str, Reply] = {
    "mask": Reply("missing tokens masked", visible),
}


def check_reply(name: str) -> None:
    """Raises ValueError for a name that no reply has."""
    if name and name not in REPLIES:
        raise ValueError(f"adaptive is {name!r}; the known replies are {', '.join(REPLIES)}")


def hear(
    name: str, messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge
) -> tuple[Heard, ThreatModel]:
    """What an attacker with this reply gives to an attack, and what he is declared to have.

    Args:
        name: of a reply; "" for an attacker who does not know of the defence, and takes the first message for an IR.
        messages: `(k, B, *client.h_shape)`, every photo k times.

    Raises:
        ValueError: unknown reply, or one that does not fit the defence.
    """
    check_reply(name)
    if not name:
        return Heard(messages[0]), ThreatModel(weights=True, public_data=True)
    threat = ThreatModel(True, True, True, queries=len(messages))
    return REPLIES[name].run(messages, defence, client, known), threat

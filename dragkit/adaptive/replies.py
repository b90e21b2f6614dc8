"""What an attacker who knows the defence does about it: a reply turns what was received into what an attack is given.

Every reply first asks whether the defence suits it, by what the defence says of itself, or by trying: a distance that claims not to
notice a defence must be 0 between noise and the same noise defended. Such a trial may use a secret that the defence holds; what an
attack is given never does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dragkit.adaptive.distances import (
    Assignment,
    Gram,
    LoudChannels,
    SlicedWasserstein,
    channel_cosine_distance,
    token_gram_distance,
    visible_distance,
)
from dragkit.adaptive.expectation import Expectation
from dragkit.adaptive.likelihood import Mahalanobis, average, whitening_of
from dragkit.adaptive.reorder import fit_positions, reorder
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient
from dragkit.defenses import Chain, Defence, LowRank, TokenShuffle
from dragkit.defenses.disco import Disco
from dragkit.defenses.stochastic import ExpectedClient, HiddenParts
from dragkit.defenses.transforms import SecretBasis, first_weights
from dragkit.distance import Distance, cosine_distance
from dragkit.zoo.knowledge import Knowledge

AWARE = ThreatModel(weights=True, public_data=True, defence_known=True)

UNNOTICED = 1e-4  # a distance below this is rounding

QUIET = 1e-3  # of the loudest channel

PROBE = 73_331  # seed of the noise on which defences are tried; with the seed that a defence is given, both would draw the same


@dataclass(frozen=True)
class Heard:
    """What an attack is given: IR `(B, *client.h_shape)`, which tokens of it arrived, the distance to minimise.

    `client`: to attack in the place of the phone's, where the attacker has made a better one.
    """

    h: Tensor
    mask: Tensor | None = None
    distance: Distance = cosine_distance
    client: SplitClient | None = None


@dataclass(frozen=True)
class Reply:
    """An attacker's answer to a defence.

    Attributes:
        label: in tables. run: `(messages (k, B, ...), defence, client, known)` to what the attack is given.
    """

    label: str
    run: Callable[[Tensor, Defence, SplitClient, Knowledge], Heard]


# -- what is missing ---------------------------------------------------------------------------------------------------


def visible_tokens(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Compare the tokens that arrived only."""
    mask = defence.arrived(messages[0])
    if mask is None:
        raise _unsuitable("mask", defence, "leaves no token out")
    return Heard(messages[0], mask)


def visible_numbers(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Compare the numbers that are not zero only."""
    if (messages[0] != 0).all():
        raise _unsuitable("visible", defence, "leaves no number out")
    return Heard(messages[0], defence.arrived(messages[0]), visible_distance)


# -- what is random ----------------------------------------------------------------------------------------------------


def averaged(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """The mean of all messages, over those in which a number arrived; numbers that never did are not compared."""
    return Heard(*_mean("average", messages, defence), visible_distance)


def most_likely(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """The mean of all messages, compared in units of the noise."""
    whiten = whitening_of(defence)
    return Heard(*_mean("likelihood", messages, defence), Mahalanobis(whiten))


def expected(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Defend the estimate as well, and compare on average."""
    _refuse_shuffle("expectation", defence)
    tried = _noise_like(messages[0])
    for part in _parts(defence):  # a fixed part may hold a secret key (rotation), which the attacker must not use
        if torch.equal(*(part(tried, torch.Generator().manual_seed(seed)) for seed in (0, 1))):
            raise _unsuitable("expectation", part, "draws nothing at random")
    distance = Expectation(defence)
    with torch.enable_grad():
        try:
            estimate = messages[0, :1].detach().clone().requires_grad_(True)
            distance(estimate, messages[0, :1]).sum().backward()
        except RuntimeError as error:
            raise _unsuitable("expectation", defence, "passes no gradient on") from error
    return Heard(messages[0], defence.arrived(messages[0]), distance)


def _mean(reply: str, messages: Tensor, defence: Defence) -> tuple[Tensor, Tensor | None]:
    """The mean of the messages, and which tokens arrived in any of them."""
    _refuse_shuffle(reply, defence)
    masks = [defence.arrived(message) for message in messages]
    there = [mask for mask in masks if mask is not None]
    return average(messages), torch.stack(there).any(0) if there else None


# -- what is out of order ----------------------------------------------------------------------------------------------


def reordered(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Every message put in order by a position classifier, then averaged; tokens that were left out stay left out."""
    _need_shuffle("reorder", defence)
    positions = fit_positions(known.client, known.at, device=known.device)
    found = []
    for message in messages:
        mask = defence.arrived(message)
        found.append(reorder(message, positions.prefix, positions(message, mask), mask))
    masks = [mask for _, mask in found if mask is not None]
    return Heard(average(torch.stack([h for h, _ in found])), torch.stack(masks).any(0) if masks else None)


def placed(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Match tokens with the estimate in the loop, and let the position classifier speak as well.

    The classifier takes a place for its mirror image where the client does; the estimate, one picture, settles which it is.
    """
    _need_shuffle("placed", defence)
    positions = fit_positions(known.client, known.at, device=known.device)
    mask = defence.arrived(messages[0])
    return Heard(messages[0], mask, Assignment(positions.prefix, positions(messages[0], mask)))


def orderless(reply: str, distance: Callable[[int], Distance]) -> Callable[..., Heard]:
    """Compare in a way that needs no order. `distance`: from the number of prefix tokens."""

    def run(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
        _need_shuffle(reply, defence)
        return Heard(messages[0], defence.arrived(messages[0]), distance(client.layout.prefix_tokens))

    return run


# -- what was scaled or turned -----------------------------------------------------------------------------------------


def unmoved(reply: str, distance: Distance, invariant: Distance | None = None) -> Callable[..., Heard]:
    """Compare what the defence does not change.

    Args:
        distance: to compare with.
        invariant: the distance that must not notice the defence; `distance` itself when None.
    """
    test = invariant or distance

    def run(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
        _refuse_shuffle(reply, defence)
        h = messages[0]
        tried = _noise_like(h)
        with torch.no_grad():
            defended = defence(tried, torch.Generator().manual_seed(0))
            apart = test(client.tokens(tried), client.tokens(defended), defence.arrived(defended))
        if not bool((apart < UNNOTICED).all()):
            raise _unsuitable(reply, defence, f"changes what it compares (by {float(apart.max()):.2g})")
        return Heard(h, defence.arrived(h), distance)

    return run


def centred(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Compare channel by channel around the mean tokens that a mask puts in place of channels; they are public.

    What was added to the mean in a channel of gain near 0 is lost to rounding, so quiet channels are left out.
    """
    if not isinstance(defence, Disco) or defence.mask.fill != "mean":
        raise _unsuitable("centred", defence, "puts no mean in place of channels")
    mean = defence.pruner.mean_tokens(client.tokens(messages[0]).shape[1]).float()

    def distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        off = h - mean.to(h)
        peaks = off.abs().amax(1, keepdim=True)
        loud = peaks > QUIET * peaks.amax(2, keepdim=True)
        return channel_cosine_distance(h_hat - mean.to(h_hat), off * loud, mask)

    return unmoved("centred", distance)(messages, defence, client, known)


def undone(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Read the secret basis off the server's weights, next to the published ones, and turn the message back."""
    if not isinstance(defence, SecretBasis):
        raise _unsuitable("undo", defence, "has no secret basis")
    public = first_weights(client)
    held = defence.hide(public)  # the first maps in the operator's model file
    return Heard(type(defence).recovered(client.layout, public, held).receive(messages[0]))


def projected(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Compare in the directions that were sent only."""
    if not isinstance(defence, LowRank) or client.layout.kind != "BND":
        raise _unsuitable("projected", defence, "sends every direction, or no tokens")
    generator = torch.Generator()  # the projection draws nothing

    def distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        return cosine_distance(defence(h_hat, generator), h, mask)

    return Heard(messages[0], None, distance)


# -- what was hidden or learned ----------------------------------------------------------------------------------------


def instances(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """Compare the mean message with the mean of many random instances of the client."""
    if not isinstance(defence, HiddenParts):
        raise _unsuitable("instances", defence, "does not act inside the client")
    return Heard(messages.mean(0), client=ExpectedClient(client, defence))


def retrained(messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge) -> Heard:
    """The message as it is: what an inverse network that was trained on defended messages takes."""
    return Heard(messages[0], defence.arrived(messages[0]))


# -- what suits --------------------------------------------------------------------------------------------------------


def _parts(defence: Defence) -> tuple[Defence, ...]:
    return defence.parts if isinstance(defence, Chain) else (defence,)


def _noise_like(h: Tensor) -> Tensor:
    """Noise of the scale of `h`: unlike a message, it shows what rounding, projecting or keeping the largest would change."""
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(PROBE))
    return h.std() * noise.to(h)


def _need_shuffle(reply: str, defence: Defence) -> None:
    if not any(isinstance(part, TokenShuffle) for part in _parts(defence)):
        raise _unsuitable(reply, defence, "does not shuffle tokens")


def _refuse_shuffle(reply: str, defence: Defence) -> None:
    if any(isinstance(part, TokenShuffle) for part in _parts(defence)):
        raise _unsuitable(reply, defence, "shuffles tokens, so that places mean nothing")


def _unsuitable(reply: str, defence: Defence, why: str) -> ValueError:
    name = "+".join(type(part).__name__ for part in _parts(defence))
    return ValueError(f"reply {reply!r} does not suit the defence {name}: it {why}")


REPLIES: dict[str, Reply] = {
    "mask": Reply("missing tokens masked", visible_tokens),
    "visible": Reply("missing numbers masked", visible_numbers),
    "average": Reply("messages averaged", averaged),
    "likelihood": Reply("likelihood of the noise", most_likely),
    "expectation": Reply("expectation over the defence", expected),
    "reorder": Reply("position classifier", reordered),
    "placed": Reply("classifier and assignment in the loop", placed),
    "assignment": Reply("assignment in the loop", orderless("assignment", Assignment)),
    "gram": Reply("second moments of the tokens", orderless("gram", Gram)),
    "sliced": Reply("sliced Wasserstein", orderless("sliced", SlicedWasserstein)),
    "channelwise": Reply("channel by channel", unmoved("channelwise", channel_cosine_distance)),
    "centred": Reply("channel by channel, around the mean", centred),
    "loud channels": Reply("loud channels only", unmoved("loud channels", LoudChannels(), channel_cosine_distance)),
    "token gram": Reply("cosines between tokens", unmoved("token gram", token_gram_distance)),
    "undo": Reply("basis read off the server's weights", undone),
    "projected": Reply("directions that were sent only", projected),
    "instances": Reply("expectation over instances of the client", instances),
    "retrained": Reply("trained on defended messages", retrained),
}


def check_reply(name: str) -> None:
    """Raises ValueError for a name that no reply has."""
    if name and name not in REPLIES:
        raise ValueError(f"adaptive is {name!r}; the known replies are {', '.join(REPLIES)}")


def hear(
    name: str, messages: Tensor, defence: Defence, client: SplitClient, known: Knowledge
) -> tuple[Heard, ThreatModel]:
    """What an attacker with this reply gives to an attack, and what they are declared to have.

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

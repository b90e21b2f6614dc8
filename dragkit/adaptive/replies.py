"""What an attacker who knows the defence does about it: a reply turns what was received into what an attack is given.

Every reply first asks whether the defence suits it, by what the defence says of itself, or by trying: a distance that claims not to
notice a defence must be 0 between noise and the same noise defended. Such a trial may use a secret that the defence holds; what an
attack is given never does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
from dragkit.attacks.message import Message
from dragkit.attacks.threat import ATTACKER, ThreatModel
from dragkit.client import SplitClient
from dragkit.defenses import BaseDefence, Chain, ChainInside, Defence, LowRank, TokenShuffle
from dragkit.defenses.disco import Disco
from dragkit.defenses.stochastic import ExpectedClient, HiddenParts
from dragkit.defenses.transforms import SecretBasis, first_weights
from dragkit.distance import Distance, cosine_distance

AWARE = ThreatModel(weights=True, public_data=True, defence_known=True)

UNNOTICED = 1e-4  # a distance below this is rounding

QUIET = 1e-3  # of the loudest channel

PROBE = 73_331  # seed of the noise on which defences are tried; with the seed that a defence is given, both would draw the same


Run = Callable[[Tensor, BaseDefence, SplitClient, Tensor | None], Message]
"""`(messages (k, B, *client.h_shape), defence, client, photos)` to what an attack is given; `photos` are public ones, or None."""


@dataclass(frozen=True)
class Reply:
    """An attacker's answer to a defence.

    Attributes:
        label: in tables.
        run: see `Run`.
    """

    label: str
    run: Run


# -- what is missing ---------------------------------------------------------------------------------------------------


def visible_tokens(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Compare the tokens that arrived only.

    Raises:
        ValueError: the defence leaves no token out.
    """
    mask = defence.arrived(messages[0])
    if mask is None:
        raise _unsuitable("mask", defence, "leaves no token out")
    return Message(messages[0], client, mask)


def visible_numbers(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Compare the numbers that are not zero only.

    Raises:
        ValueError: no number of the message is zero.
    """
    if (messages[0] != 0).all():
        raise _unsuitable("visible", defence, "leaves no number out")
    return Message(messages[0], client, defence.arrived(messages[0]), visible_distance)


# -- what is random ----------------------------------------------------------------------------------------------------


def averaged(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """The mean of all messages, over those in which a number arrived; numbers that never did are not compared.

    Raises:
        ValueError: the defence shuffles tokens.
    """
    h, mask = _mean("average", messages, defence)
    return Message(h, client, mask, visible_distance)


def most_likely(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """The mean of all messages, compared in units of the noise.

    Raises:
        ValueError: the defence shuffles tokens, or adds no noise of a known covariance.
    """
    whiten = whitening_of(defence)
    h, mask = _mean("likelihood", messages, defence)
    return Message(h, client, mask, Mahalanobis(whiten))


def expected(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Defend the estimate as well, and compare on average.

    Raises:
        ValueError: the defence shuffles tokens, acts inside the client, draws nothing at random in one of its parts, or passes no
            gradient on.
    """
    _refuse_shuffle("expectation", defence)
    acting, tried = _outside("expectation", defence), _noise_like(messages[0])
    for part in acting.parts if isinstance(acting, Chain) else (acting,):
        # A fixed part may hold a secret key (rotation), which the attacker must not use.
        if torch.equal(*(part(tried, torch.Generator().manual_seed(seed)) for seed in (0, 1))):
            raise _unsuitable("expectation", part, "draws nothing at random")
    distance = Expectation(acting)
    with torch.enable_grad():
        try:
            estimate = messages[0, :1].detach().clone().requires_grad_(True)
            distance(estimate, messages[0, :1]).sum().backward()
        except RuntimeError as error:
            raise _unsuitable("expectation", defence, "passes no gradient on") from error
    return Message(messages[0], client, defence.arrived(messages[0]), distance)


def _mean(reply: str, messages: Tensor, defence: BaseDefence) -> tuple[Tensor, Tensor | None]:
    """The mean of the messages, and which tokens arrived in any of them."""
    _refuse_shuffle(reply, defence)
    masks = [defence.arrived(message) for message in messages]
    there = [mask for mask in masks if mask is not None]
    return average(messages), torch.stack(there).any(0) if there else None


# -- what is out of order ----------------------------------------------------------------------------------------------


def reordered(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Every message put in order by a position classifier, then averaged; tokens that were left out stay left out.

    Raises:
        ValueError: the defence does not shuffle tokens, or there are too few photos (see `fit_positions`).
        FileNotFoundError: `photos` is None, and Imagenette is not there.
    """
    _need_shuffle("reorder", defence)
    positions = fit_positions(client, photos)
    ordered = []
    for message in messages:
        mask = defence.arrived(message)
        ordered.append(reorder(message, positions.prefix, positions(message, mask), mask))
    masks = [mask for _, mask in ordered if mask is not None]
    return Message(average(torch.stack([h for h, _ in ordered])), client, torch.stack(masks).any(0) if masks else None)


def placed(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Match tokens with the estimate in the loop, by their distance and by what the position classifier says.

    The classifier takes a place for its mirror image where the client does; the estimate, one picture, settles which it is.

    Raises:
        ValueError: the defence does not shuffle tokens, or there are too few photos (see `fit_positions`).
        FileNotFoundError: `photos` is None, and Imagenette is not there.
    """
    _need_shuffle("placed", defence)
    positions = fit_positions(client, photos)
    mask = defence.arrived(messages[0])
    return Message(messages[0], client, mask, Assignment(positions.prefix, positions(messages[0], mask)))


def orderless(reply: str, distance: Callable[[int], Distance]) -> Run:
    """Compare in a way that needs no order.

    Args:
        reply: its name.
        distance: from the number of prefix tokens.

    Returns:
        what runs it; raises ValueError for a defence that does not shuffle tokens.
    """

    def run(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
        _need_shuffle(reply, defence)
        return Message(messages[0], client, defence.arrived(messages[0]), distance(client.layout.prefix_tokens))

    return run


# -- what was scaled or turned -----------------------------------------------------------------------------------------


def unmoved(reply: str, distance: Distance, invariant: Distance | None = None) -> Run:
    """Compare what the defence does not change.

    Args:
        reply: its name.
        distance: to compare with.
        invariant: the distance that must not notice the defence; `distance` itself when None.

    Returns:
        what runs it; raises ValueError for a defence that shuffles tokens, acts inside the client, or changes what is compared.
    """
    test = invariant or distance

    def run(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
        _refuse_shuffle(reply, defence)
        tried = _noise_like(messages[0])
        with torch.no_grad():
            defended = _outside(reply, defence)(tried, torch.Generator().manual_seed(0))
            change = test(client.tokens(tried), client.tokens(defended), defence.arrived(defended))
        if not bool((change < UNNOTICED).all()):
            raise _unsuitable(reply, defence, f"changes what it compares (by {float(change.max()):.2g})")
        return Message(messages[0], client, defence.arrived(messages[0]), distance)

    return run


def centred(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Compare channel by channel around the mean tokens that a mask puts in place of channels; they are public.

    What was added to the mean in a channel of gain near 0 is lost to rounding, so quiet channels are left out.

    Raises:
        ValueError: the defence is not DISCO with the mean in place of channels, or changes what is compared.
    """
    if not isinstance(defence, Disco) or defence.mask.fill != "mean":
        raise _unsuitable("centred", defence, "puts no mean in place of channels")
    mean = defence.pruner.mean_tokens(client.tokens(messages[0]).shape[1]).float()

    def distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        off = h - mean.to(h)
        peaks = off.abs().amax(1, keepdim=True)
        loud = peaks > QUIET * peaks.amax(2, keepdim=True)
        return channel_cosine_distance(h_hat - mean.to(h_hat), off * loud, mask)

    return unmoved("centred", distance)(messages, defence, client, photos)


def undone(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Read the secret basis off the server's weights, next to the published ones, and turn the message back.

    Raises:
        ValueError: the defence has no secret basis.
    """
    if not isinstance(defence, SecretBasis):
        raise _unsuitable("undo", defence, "has no secret basis")
    public = first_weights(client)
    held = defence.hide(public)  # the first maps in the operator's model file
    return Message(type(defence).recovered(client.layout, public, held).receive(messages[0]), client)


def projected(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Compare in the directions that were sent only.

    Raises:
        ValueError: the defence does not lower the rank of messages, or the messages are not tokens.
    """
    if not isinstance(defence, LowRank) or client.layout.kind != "BND":
        raise _unsuitable("projected", defence, "sends every direction, or no tokens")
    generator = torch.Generator()  # the projection draws nothing

    def distance(h_hat: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
        return cosine_distance(defence(h_hat, generator), h, mask)

    return Message(messages[0], client, None, distance)


# -- what was hidden or learned ----------------------------------------------------------------------------------------


def instances(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """Compare the mean message with the mean of many random instances of the client.

    Raises:
        ValueError: the defence does not act inside the client.
    """
    if not isinstance(defence, HiddenParts):
        raise _unsuitable("instances", defence, "is not one that only acts inside the client")
    return Message(messages.mean(0), ExpectedClient(client, defence))


def retrained(messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None) -> Message:
    """The message as it is: what an inverse network that was trained on defended messages takes."""
    return Message(messages[0], client, defence.arrived(messages[0]))


# -- what suits --------------------------------------------------------------------------------------------------------


def _parts(defence: BaseDefence) -> tuple[BaseDefence, ...]:
    return defence.parts if isinstance(defence, Chain | ChainInside) else (defence,)


def _outside(reply: str, defence: BaseDefence) -> Defence:
    """The defence, which has to act on IRs: the attacker tries it on some of their own."""
    if not isinstance(defence, Defence):
        raise _unsuitable(reply, defence, "acts inside the client, not on IRs")
    return defence


def _noise_like(h: Tensor) -> Tensor:
    """Noise of the scale of `h`: unlike a message, it shows what rounding, projecting or keeping the largest would change."""
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(PROBE))
    return h.std() * noise.to(h)


def _need_shuffle(reply: str, defence: BaseDefence) -> None:
    if not any(isinstance(part, TokenShuffle) for part in _parts(defence)):
        raise _unsuitable(reply, defence, "does not shuffle tokens")


def _refuse_shuffle(reply: str, defence: BaseDefence) -> None:
    if any(isinstance(part, TokenShuffle) for part in _parts(defence)):
        raise _unsuitable(reply, defence, "shuffles tokens, so that places mean nothing")


def _unsuitable(reply: str, defence: BaseDefence, why: str) -> ValueError:
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
    """Refuse a name that no reply has; "" is an attacker who does not reply.

    Raises:
        ValueError: `name` is neither "" nor a key of `REPLIES`.
    """
    if name and name not in REPLIES:
        raise ValueError(f"adaptive is {name!r}; the known replies are {', '.join(REPLIES)}")


def hear(
    name: str, messages: Tensor, defence: BaseDefence, client: SplitClient, photos: Tensor | None = None
) -> tuple[Message, ThreatModel]:
    """What an attacker with this reply gives to an attack, and what they are declared to have.

    Args:
        name: of a reply, a key of `REPLIES`; "" for an attacker who does not know of the defence, and takes the first message for
            an IR.
        messages: `(k, B, *client.h_shape)`, every photo k times.
        defence: what the phone did to them.
        client: the phone's; the one in the returned message is the one to attack.
        photos: public photos `(n, 3, H, W)` in [0, 1] for the replies that train on some ("reorder", "placed"); None means
            training photos of Imagenette.

    Raises:
        ValueError: unknown reply, one that does not fit the defence, messages of another shape, or too few photos.
        FileNotFoundError: the reply needs photos, none are given, and Imagenette is not there.
    """
    check_reply(name)
    sent = tuple(client.h_shape)
    if messages.ndim != len(sent) + 2 or tuple(messages.shape[2:]) != sent or len(messages) == 0:
        raise ValueError(
            f"messages has shape {tuple(messages.shape)}; it must be (k, B, {', '.join(map(str, sent))}): "
            "every photo k times, k = 1 for a photo that is sent once"
        )
    if not name:
        return Message(messages[0], client), ATTACKER
    return REPLIES[name].run(messages, defence, client, photos), replace(AWARE, queries=len(messages))

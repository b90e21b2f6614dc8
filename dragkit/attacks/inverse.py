"""Inverse network: a decoder trained to turn intermediate representations back into photos (He et al., ACSAC 2019).

A network that minimises the squared error learns the posterior mean of the photo, E[x | h]: blurred where `h` leaves the photo
open, and the best there is in PSNR. The decoder is the one of the comparison in arXiv 2509.11724, a small transformer over the
tokens. It needs no gradient at attack time, and its answer is where DRAG++ starts (`dragkit.attacks.dragpp`).
"""

from __future__ import annotations

import time

import torch

from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.priors.inverse_network import InverseNetwork

NEEDS = ThreatModel(weights=True, public_data=True)


@torch.no_grad()
def inverse(message: Message, network: InverseNetwork, *, threat: ThreatModel = NEEDS) -> Reconstruction:
    """Rebuild photos by one pass through a network that was trained for this client. Nothing is random and nothing to be set.

    Args:
        message: what the attacker holds; its distance is reported, the answer does not depend on it. A float64 message gives
            float64 images.
        network: what they know about photos.
        threat: what they are declared to have; refused without public photos, which the training needs.

    Returns:
        `Reconstruction` with images `(B, 3, S, S)` at the network's size; `nfe` is 1, the network itself.

    Raises:
        ValueError: the network was made for another client, or tokens are missing and it has never seen that.
        PermissionError: the threat model excludes the attack.
    """
    threat.require(NEEDS, "the inverse network")
    _check(network, message)
    started = time.perf_counter()
    images = network(message.tokens, message.mask).to(message.h.dtype)
    seconds = time.perf_counter() - started
    distance = message.measure(images)
    finite = torch.isfinite(images.flatten(1)).all(1) & torch.isfinite(distance)
    failed = [None if ok else 0 for ok in finite.tolist()]
    return Reconstruction(images.nan_to_num(0.5), distance, 1, seconds, threat, failed)


def _check(network: InverseNetwork, message: Message) -> None:
    shape, client = network.shape, message.client
    if (shape.client, shape.at) != (client.name, client.at):
        raise ValueError(
            f"network is an inverse network for {shape.client} at {shape.at}, but the client is {client.name} at "
            f"{client.at}; train one for it: dragkit train inverse --client {client.name} --at {client.at}"
        )
    if message.mask is not None and shape.drop == 0 and not message.mask.all():
        raise ValueError(
            "mask says that tokens are missing, but this inverse network was trained on whole representations; train "
            "one with --drop above 0"
        )

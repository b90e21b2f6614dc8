"""Every study and every training by its name on the command line; what stands behind a name is loaded when it is called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A function of the laboratory, as "module:function", and what it does, in one line."""

    function: str
    line: str

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(f"draglab.{module}"), name)


SWEEPS = {
    "search": Entry("studies.tuning:search", "Choose DRAG's settings for the small prior, on training photos."),
    "baselines": Entry("studies.depth:baselines", "Every attack at every depth, for the same time."),
    "ablations": Entry("studies.ingredients:ablations", "DRAG with one ingredient changed at a time."),
    "recurrence_curve": Entry("studies.ingredients:recurrence_curve", "DRAG with 1 to 16 turns per step."),
    "rates": Entry("studies.ingredients:rates", "DRAG with guidance rates from too low to too high."),
    "retrieval": Entry("studies.identity:retrieval", "Does a reconstruction single its photo out among 1,000?"),
    "budgets": Entry("studies.patience:budgets", "Quality against seconds, for every attack."),
    "patience": Entry("studies.patience:patience", "Does the prior only buy time? DRAG and LM on long runs."),
    "starts": Entry("studies.start:starts", "DRAG from noise, from a first guess and from grey."),
    "pixels": Entry("studies.pixel_space:pixels", "A prior on pixels against the prior on latents."),
    "published": Entry("studies.published:published", "Every attack with its published settings and budget."),
    "defence_noise": Entry("studies.noise:noise", "Gaussian and Laplace noise, and dropout."),
    "defence_tokens": Entry("studies.tokens:tokens", "Shuffled and dropped tokens."),
    "defence_transport": Entry("studies.transport:transport", "Shorter messages, and secret bases."),
    "defence_nopeek": Entry("studies.nopeek:nopeek", "Clients whose messages are decorrelated from the photos."),
    "defence_disco": Entry("studies.disco:disco", "Learned channel pruning."),
    "defence_randomness": Entry("studies.randomness:randomness", "Random mechanisms at equal accuracy; many messages."),
    "bounds": Entry("studies.guarantees:bounds", "How low any attacker can get under Gaussian noise."),
    "bits": Entry("studies.guarantees:bits", "What short codes allow an attacker at most."),
}
"""`dragkit sweep NAME`: comparisons on the same photos."""

MEASUREMENTS = {
    "models": Entry("studies.embedded_models:models", "Quality of the embedded models."),
    "noise": Entry("studies.noise_loss:noise", "The prior's noise loss beside that of a Gaussian predictor."),
    "overfit": Entry("studies.first_checks:overfit", "The published settings at the embeddings."),
    "overfit_small": Entry("studies.first_checks:overfit_small", "The small prior's settings at the embeddings."),
    "recurrence": Entry("studies.first_checks:recurrence", "16 turns per step against 1, at the last block."),
    "shuffle": Entry("studies.first_checks:shuffle", "The plain attack on shuffled tokens."),
    "deep": Entry("studies.first_checks:deep", "The real backbone, deep: DRAG against rMLE."),
}
"""`dragkit measure NAME`: single checks."""

TRAININGS = {
    "autoencoder": Entry("training.autoencoder:train_autoencoder", "The 64x64 autoencoder."),
    "prior": Entry("training.prior:train_prior", "The noise predictor on the autoencoder's latents."),
    "pixel-prior": Entry("training.pixel_prior:train_pixel_prior", "The noise predictor on pixels."),
    "classifier": Entry("training.classifier:train_classifier", "The 12-block ViT."),
    "inverse": Entry("training.inverse:train_inverse", "An inverse network: from the message back to the photo."),
    "server": Entry("training.server:train_server", "A server half that learns to live with a defence."),
    "nopeek": Entry("training.nopeek:train_nopeek", "A client whose messages are decorrelated from photos (NoPeek)."),
    "disco": Entry("training.disco:train_disco", "A client with learned channel pruning (DISCO)."),
    "gan": Entry("training.gan:train_gan", "The GAN in whose latent space GLASS searches."),
    "gan-encoder": Entry("training.gan_encoder:train_gan_encoder", "The encoder that starts GLASS++."),
}
"""`dragkit train NAME`: the embedded models; the same command resumes an interrupted run."""

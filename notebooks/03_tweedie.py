# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tweedie's formula: guess the finished picture first
#
# The attack wants to steer a diffusion model towards a message: at every step it asks "would this picture cause the message?". But at
# every step except the last there is no picture, only a noisy latent, and the client was never shown such a thing. One formula from the
# 1950s gets around it.
#
# **Goals.** Derive Tweedie's formula and check it where the truth is known. See how good the guess is at each noise level. Measure
# whether the client needs it. Read the two functions at the heart of DRAG.
#
# **You need** the [chapter on the prior](02_diffusion_prior.ipynb): $z_t$, $\bar\alpha_t$, and the noise predictor $\epsilon_\theta$.
#
# > **Cost:** CPU, about one minute, 1.2 GB of memory. Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns the small comparison of attacks may take
seed = 0

# %% tags=["hide-input"]
import torch

from dragkit import (
    DragConfig,
    Message,
    data,
    drag,
    load_client,
    load_prior,
    metrics,
    schedule,
)
from dragkit.attacks.drag import gradient, turn
from dragkit.streams import SeededNoise
from draglab.chapters import ch03_tweedie as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import Line, study

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
client = load_client(at="block:9", device=device)
prior = load_prior(device=device)
demo = data.demo_images(prior.image_size)
names, photos = list(demo), torch.stack(list(demo.values())).to(device)

# %% [markdown]
# ## The formula
#
# Somebody draws a clean latent $z_0$ from a distribution $p$ and adds Gaussian noise,
# $z_t = \sqrt{\bar\alpha_t}\, z_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$. You see $z_t$. What was $z_0$, on average?
#
# Take the density of what you see and differentiate its logarithm. The derivative of a mixture is the mean of the derivatives of its
# parts, weighted by how likely each part is given $z_t$, and each part is a Gaussian:
#
# $$
# \nabla \log p(z_t) = \mathbb{E}\big[\nabla \log p(z_t \mid z_0) \,\big|\, z_t\big]
# = \frac{\sqrt{\bar\alpha_t}\; \mathbb{E}[z_0 \mid z_t] - z_t}{1-\bar\alpha_t}.
# $$
#
# Solve for the mean:
#
# $$
# \mathbb{E}[z_0 \mid z_t] = \frac{z_t + (1-\bar\alpha_t)\, \nabla \log p(z_t)}{\sqrt{\bar\alpha_t}}.
# $$
#
# That is Tweedie's formula. And $\nabla \log p$ is at hand: a noise predictor trained with squared error learns the mean of the noise given
# $z_t$, which is $\epsilon_\theta(z_t, t) = -\sqrt{1-\bar\alpha_t}\, \nabla \log p(z_t)$. Put it in, and a line of code is left.

# %%
pages.source(schedule.tweedie)

# %% [markdown]
# ## Where the truth is known
#
# Let $z_0$ be a coin: $-1$ or $+1$. Then the mean of $z_0$ given $z_t$ has a closed form, $\tanh\!\big(\sqrt{\bar\alpha_t}\, z_t / (1-\bar\alpha_t)\big)$. We
# give `tweedie` the exact noise prediction, by differentiating the density of $z_t$, and compare.

# %%
z = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64, requires_grad=True)
estimates, largest = {}, 0.0
for a_t in (0.9, 0.6, 0.2):
    sides = [-((z - side * a_t**0.5) ** 2) / (2 * (1 - a_t)) for side in (-1, 1)]
    log_p = torch.logsumexp(torch.stack(sides), 0)
    (score,) = torch.autograd.grad(log_p.sum(), z)

    estimate = schedule.tweedie(z.detach(), -((1 - a_t) ** 0.5) * score, a_t)
    truth = torch.tanh(a_t**0.5 * z.detach() / (1 - a_t))
    largest = max(largest, float((estimate - truth).abs().max()))
    estimates[f"signal's share {a_t}"] = estimate

# %% tags=["hide-input"]
record("coin_error", largest, atol=1e-10, direction="lower")
Line(f"Largest difference between formula and truth: {largest:.1e}.")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three S-shaped curves of the estimate against the noisy value, for little, medium and strong noise, from minus one to plus one", "classes": "dark-light"}, "figure": {"caption": "Tweedie's estimate of a coin from its noisy value. With much signal left it decides; with little it hedges.", "name": "fig-coin"}}
plots.curves(estimates, z.detach(), xlabel="noisy value", ylabel="estimate of the coin")

# %% [markdown]
# Two things to keep. The formula is exact, if the noise prediction is. And it gives a **mean**: between two possible coins it says 0,
# which is no coin. Between many possible photos it says the mean photo, which is a blur.
#
# ## On photos
#
# Now the real prior. We add noise to a photo's latent, a single time, and let the formula guess. The same draw of noise is used at
# every timestep.

# %%
times = [25, 100, 200, 300, 450, 700]
noise = SeededNoise([seed] * len(photos), device=device).draw(prior.latent_shape)
noisy, guesses = {}, {}
with torch.no_grad():
    z_0 = prior.encode(photos)
    for t in times:
        a_t = schedule.alpha_bar_at(prior.alpha_bar, t)
        noisy[t] = schedule.add_noise(z_0, noise, a_t)
        guesses[t] = schedule.tweedie(noisy[t], prior.predict_noise(noisy[t], t), a_t)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four rows of seven pictures: for two photos, the decoded noisy latent and the decoded estimate at six timesteps of growing noise", "classes": "dark-light"}, "figure": {"caption": "Two photos under more and more noise: the noisy latent decoded as it is, and Tweedie's estimate decoded.", "name": "fig-tweedie"}}
rows = chapter.noisy_and_guessed(prior, noisy, guesses, names[:2])
record_panel("guesses", rows[f"{names[0]}, guess"], min_ssim=0.9)
plots.image_rows(rows, [f"t = {t}" for t in times])


# %%
def error(estimate):
    """Relative squared error of each photo's latent."""
    missed = (estimate - z_0).square().flatten(1).sum(1)
    return missed / z_0.square().flatten(1).sum(1)


guessed = torch.stack([error(guesses[t]) for t in times])
rescaled = {t: noisy[t] / float(prior.alpha_bar[t]) ** 0.5 for t in times}
scaled = torch.stack([error(rescaled[t]) for t in times])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves of relative squared error over the timestep on a logarithmic scale: Tweedie's estimate, and the noisy latent merely rescaled", "classes": "dark-light"}, "figure": {"caption": "Squared error in the latent relative to the size of the latent. Mean over four photos, band: smallest to largest.", "name": "fig-tweedie-error"}}
record("tweedie_error", guessed.mean(1), rtol=0.05)
plots.curves(
    {"Tweedie's estimate": guessed.mean(1), "rescaled, no estimate": scaled.mean(1)},
    times,
    xlabel="timestep t",
    ylabel="relative squared error",
    bands={"Tweedie's estimate": (guessed.amin(1), guessed.amax(1))},
    levels={"guessing zero": 1.0},
    log=True,
    points=True,
)

# %% tags=["hide-input"]
chapter.worth_of_the_guess(times, guessed, scaled)

# %% [markdown]
# ## Does the client need it?
#
# The client saw clean photos in training, and the picture decoded from a *noisy* latent is not one. If the client makes features of
# blotches out of it, then its distance to the message says little about the photo, and the gradient of that distance little about where to
# go. So we ask the client about the same latents twice: decoded as they are, and after Tweedie's estimate. The estimate is worth its
# price where its curve is the lower one.

# %%
with torch.no_grad():
    h = client(photos)
    message = Message(h, client)
    raw = torch.stack([message.measure(prior.decode(noisy[t])) for t in times])
    tweedied = torch.stack([message.measure(prior.decode(guesses[t])) for t in times])

    ceiling = float(message.measure(prior.decode(z_0)).mean())
    another = float(message.measure(photos.roll(1, 0)).mean())

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves of IR distance to the photo's own message over the timestep, for pictures decoded from the noisy latent and from Tweedie's estimate, with a horizontal line for the distance to another photo", "classes": "dark-light"}, "figure": {"caption": "IR distance to the photo's own message: what the attack would measure, without and with Tweedie's estimate. Means over four photos, bands: smallest to largest.", "name": "fig-tweedie-client"}}
record("ir_distance_noisy", raw.mean(1), atol=0.02)
record("ir_distance_tweedie", tweedied.mean(1), atol=0.02, direction="lower")
plots.curves(
    {
        "noisy latent, decoded": raw.mean(1),
        "Tweedie's estimate, decoded": tweedied.mean(1),
    },
    times,
    xlabel="timestep t",
    ylabel="IR distance",
    bands={
        "noisy latent, decoded": (raw.amin(1), raw.amax(1)),
        "Tweedie's estimate, decoded": (tweedied.amin(1), tweedied.amax(1)),
    },
    levels={"another photo": another, "decoder ceiling": ceiling},
    points=True,
)

# %% tags=["hide-input"]
chapter.what_the_client_needs(times, raw, tweedied, another)

# %% [markdown]
# ## In the attack
#
# Here is the gradient that DRAG takes, and the turn around it: this is the code of the [quickstart](00_quickstart.ipynb), not a
# copy. The estimate is a function of $z_t$ **through the noise predictor**, and the gradient takes the same way back. So one turn costs a
# forward and a backward pass of predictor, decoder and client.

# %%
pages.source(gradient, turn)

# %% [markdown]
# Switch the estimate off with `tweedie=False`, and the distance is measured at the noisy latent. Two photos, same seeds, a short run:

# %%
config = {
    "ci": DragConfig(num_steps=25, recurrence=2),
    "laptop": DragConfig.fast(),
    "colab": DragConfig.fast(),
    "paper": DragConfig.paper(),
}[budget]
two = Message(h[:2], client)
runs = {
    "with estimate": drag(two, prior, config, seeds=seed),
    "without estimate": drag(two, prior, config.with_(tweedie=False), seeds=seed),
}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three rows of two pictures: the photos, reconstructions with Tweedie's estimate, and reconstructions without it", "classes": "dark-light"}, "figure": {"caption": "The same short attack with and without Tweedie's estimate. Under each picture: MS-SSIM to the photo and final IR distance.", "name": "fig-tweedie-ablation"}}
similarity = {
    name: metrics.ms_ssim(run.images, photos[:2]) for name, run in runs.items()
}
for name, run in runs.items():
    record(f"ms_ssim_{name.replace(' ', '_')}", similarity[name], atol=0.08)
    record(f"distance_{name.replace(' ', '_')}", run.distance, atol=0.05)
record_panel("ablation", torch.cat([run.images for run in runs.values()]), min_ssim=0.5)
rows = {"photo": photos[:2], **{name: run.images for name, run in runs.items()}}
plots.image_rows(rows, names[:2], chapter.captions(runs, similarity))

# %% tags=["hide-input"]
chapter.which_is_nearer(runs["with estimate"], runs["without estimate"], config)

# %% [markdown]
# ## One step, sixteen times
#
# At strong noise the estimate is a blur, and one step along its gradient settles little. DRAG therefore takes a guided step, adds noise
# to come back to the same timestep, and takes the step again, $k$ times in all. This is **self-recurrence**. The way back is the forward
# process over one step:

# %%
pages.source(schedule.renoise)

# %% [markdown]
# Is it worth $k$ times the price? A longer run cut the client after its last block and attacked with $k = 1$ and with $k = 16$, for the
# same number of steps.

# %% tags=["hide-input"]
recurrence = study("recurrence")
recurrence.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per method: mean MS-SSIM of the attack with one and with sixteen turns per step, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, of DRAG (published settings but for k) after block 12.", "name": "fig-recurrence"}}
recurrence.intervals("ms_ssim")

# %% [markdown]
# Read it with one reservation: sixteen turns per step are also sixteen times as many turns. Whether it is the *going back* that helps, or
# just more computing, takes a third run, with as many turns spent on finer steps. The [claims table](../book/claims.md) says what
# has been tested.
#
# ## Summary
#
# - Tweedie's formula turns a noise prediction into the mean of all clean latents that fit $z_t$. It is exact where the prediction is.
# - A mean of many photos is a blur: at strong noise the estimate is vague, at weak noise it is sharp.
# - The client was trained on clean photos, so the attack measures its distance at the estimate, and differentiates through the noise
#   predictor.
# - Self-recurrence repeats a guided step at the same noise level.
#
# **What stops it?** Nothing in this chapter: the estimate uses the attacker's own prior, and no client can prevent that. What a client can
# change is the *message*. A defence has to make the right photo no closer than the wrong ones, for an attacker who knows of it.
#
# **What this does not show.** Errors are means over four demonstration photos, for one draw of noise. The noise predictor is small; a
# better one moves every curve of this chapter down.
#
# ## Exercises
#
# **1. Not trained.** Replace `prior.predict_noise(noisy[t], t)` by `torch.zeros_like(noisy[t])`. Which curve of the error figure do you get?
#
# <details><summary>Solution</summary>
#
# The rescaled one: with no noise predicted, the formula is $z_t / \sqrt{\bar\alpha_t}$. Its relative error is
# $(1-\bar\alpha_t)/\bar\alpha_t$ times the ratio of the noise's size to the latent's, and grows without bound.
#
# </details>
#
# **2. A Gaussian prior.** Let $z_0 \sim \mathcal{N}(0, s^2)$. Compute $\mathbb{E}[z_0 \mid z_t]$ by Tweedie's formula. What happens for $s \to 0$?
#
# <details><summary>Solution</summary>
#
# $z_t$ has variance $v = \bar\alpha_t s^2 + 1 - \bar\alpha_t$, so $\nabla \log p(z_t) = -z_t / v$ and
#
# $$\mathbb{E}[z_0 \mid z_t] = \frac{z_t}{\sqrt{\bar\alpha_t}}\Big(1 - \frac{1-\bar\alpha_t}{v}\Big)
# = \frac{\sqrt{\bar\alpha_t}\, s^2}{v}\, z_t .$$
#
# For $s \to 0$ it is 0, whatever you see: a prior that is certain does not listen.
#
# </details>
#
# **3. A cheaper gradient.** `step="mpgd"` takes the gradient at the estimate itself, and not through the noise predictor. Run it on the two
# photos and compare `seconds` and `distance`.
#
# <details><summary>Solution</summary>
#
# ```python
# cheap = drag(two, prior, config.with_(step="mpgd", guidance_rate=1.0), seeds=seed)
# print(cheap, runs["with estimate"], sep="\n")
# ```
#
# It saves the backward pass of the predictor. `guidance_rate` means something else for this step, a plain factor, and has to be chosen
# anew before the two can be compared.
#
# </details>

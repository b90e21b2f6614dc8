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

# %%
import torch

from dragkit import data, schedule, zoo
from dragkit.attacks.drag import drag, gradient, turn
from dragkit.attacks.message import Message
from dragkit.config import DragConfig
from dragkit.distance import cosine_distance
from dragkit.measures import metrics
from dragkit.streams import SeededNoise
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel

device = "cuda" if torch.cuda.is_available() else "cpu"
small = {
    "ci": DragConfig(num_steps=25, recurrence=2),
    "laptop": DragConfig.fast(),
    "colab": DragConfig.fast(),
    "paper": DragConfig.paper(),
}[budget]
client = zoo.load_client(at="block:9", device=device)
prior = zoo.load_prior(device=device)
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

# %% mystnb={"image": {"alt": "Three S-shaped curves of the estimate against the noisy value, for little, medium and strong noise, from minus one to plus one", "classes": "dark-light"}, "figure": {"caption": "Tweedie's estimate of a coin from its noisy value. With much signal left it decides; with little it hedges.", "name": "fig-coin"}}
z = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64, requires_grad=True)
estimates, largest = {}, 0.0
for a_t in (0.9, 0.6, 0.2):
    log_p = torch.logsumexp(torch.stack([-((z - s * a_t**0.5) ** 2) / (2 * (1 - a_t)) for s in (-1, 1)]), 0)
    (score,) = torch.autograd.grad(log_p.sum(), z)
    found = schedule.tweedie(z.detach(), -((1 - a_t) ** 0.5) * score, a_t)
    truth = torch.tanh(a_t**0.5 * z.detach() / (1 - a_t))
    largest = max(largest, float((found - truth).abs().max()))
    estimates[f"signal's share {a_t}"] = found

print(
    f"largest difference between formula and truth: {record('coin_error', largest, atol=1e-10, direction='lower'):.1e}"
)
plots.curves(estimates, z.detach(), xlabel="noisy value", ylabel="estimate of the coin")

# %% [markdown]
# Two things to keep. The formula is exact, if the noise prediction is. And it gives a **mean**: between two possible coins it says 0,
# which is no coin. Between many possible photos it says the mean photo, which is a blur.
#
# ## On photos
#
# Now the real prior. We add noise to a photo's latent, a single time, and let the formula guess. The same draw of noise is used at
# every timestep.

# %% mystnb={"image": {"alt": "Four rows of seven pictures: for two photos, the decoded noisy latent and the decoded estimate at six timesteps of growing noise", "classes": "dark-light"}, "figure": {"caption": "Two photos under more and more noise: the noisy latent decoded as it is, and Tweedie's estimate decoded.", "name": "fig-tweedie"}}
times = [25, 100, 200, 300, 450, 700]
noise = SeededNoise([seed] * len(photos), device=device).draw(prior.latent_shape)
noisy, guesses = {}, {}
with torch.no_grad():
    z_0 = prior.encode(photos)
    for t in times:
        a_t = schedule.alpha_bar_at(prior.alpha_bar, t)
        noisy[t] = schedule.add_noise(z_0, noise, a_t)
        guesses[t] = schedule.tweedie(noisy[t], prior.predict_noise(noisy[t], t), a_t)
    rows = {}
    for i in range(2):
        rows[f"{names[i]}, z_t"] = torch.cat([prior.decode(noisy[t][i : i + 1]) for t in times])
        rows[f"{names[i]}, guess"] = torch.cat([prior.decode(guesses[t][i : i + 1]) for t in times])
record_panel("guesses", rows[f"{names[0]}, guess"], min_ssim=0.9)
plots.image_rows(rows, [f"t = {t}" for t in times])

# %% mystnb={"image": {"alt": "Two curves of relative squared error over the timestep on a logarithmic scale: Tweedie's estimate, and the noisy latent merely rescaled", "classes": "dark-light"}, "figure": {"caption": "Squared error in the latent relative to the size of the latent. Mean over four photos, band: smallest to largest.", "name": "fig-tweedie-error"}}
size = z_0.square().flatten(1).sum(1)


def error(estimate):
    """Relative squared error of each photo's latent."""
    return (estimate - z_0).square().flatten(1).sum(1) / size


guessed = torch.stack([error(guesses[t]) for t in times])
scaled = torch.stack([error(noisy[t] / float(prior.alpha_bar[t]) ** 0.5) for t in times])
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

# %%
useful = [t for t, e in zip(times, guessed.mean(1).tolist(), strict=True) if e < 1]
if useful:
    print(f"The estimate is better than guessing zero up to t = {max(useful)} of those tried.")
else:
    print("At none of these timesteps is the estimate better than guessing zero: this noise predictor is of no use.")
share = float((guessed / scaled).mean(1)[times.index(450)])
print(f"At t = 450 its error is {share:.2f} times that of the rescaled latent.")

# %% [markdown]
# ## Does the client need it?
#
# The client saw clean photos in training, and the picture decoded from a *noisy* latent is not one. If the client makes features of
# blotches out of it, then its distance to the message says little about the photo, and the gradient of that distance little about where to
# go. So we ask the client about the same latents twice: decoded as they are, and after Tweedie's estimate. The estimate is worth its
# price where its curve is the lower one.

# %% mystnb={"image": {"alt": "Two curves of IR distance to the photo's own message over the timestep, for pictures decoded from the noisy latent and from Tweedie's estimate, with a horizontal line for the distance to another photo", "classes": "dark-light"}, "figure": {"caption": "IR distance to the photo's own message: what the attack would measure, without and with Tweedie's estimate. Means over four photos, bands: smallest to largest.", "name": "fig-tweedie-client"}}
with torch.no_grad():
    h = client(photos)
    target = client.tokens(h)

    def apart(latents):
        """IR distance between the photos' messages and those of decoded latents."""
        return cosine_distance(client.tokens(client(prior.decode(latents))), target)

    raw = torch.stack([apart(noisy[t]) for t in times])
    tweedied = torch.stack([apart(guesses[t]) for t in times])
    another = float(cosine_distance(target.roll(1, 0), target).mean())
    floor = float(apart(z_0).mean())
record("ir_distance_noisy", raw.mean(1), atol=0.02)
record("ir_distance_tweedie", tweedied.mean(1), atol=0.02, direction="lower")
plots.curves(
    {"noisy latent, decoded": raw.mean(1), "Tweedie's estimate, decoded": tweedied.mean(1)},
    times,
    xlabel="timestep t",
    ylabel="IR distance",
    bands={
        "noisy latent, decoded": (raw.amin(1), raw.amax(1)),
        "Tweedie's estimate, decoded": (tweedied.amin(1), tweedied.amax(1)),
    },
    levels={"another photo": another, "decoder ceiling": floor},
    points=True,
)

# %%
closer = [t for t, a, b in zip(times, tweedied.mean(1).tolist(), raw.mean(1).tolist(), strict=True) if a < b]
print(f"Tweedie's estimate is closer to the message at {len(closer)} of {len(times)} timesteps: {closer or 'none'}.")
past = [t for t, d in zip(times, raw.mean(1).tolist(), strict=True) if d >= another]
print(
    f"Without it the true photo looks as foreign as another photo from t = {past[0]} on."
    if past
    else "Without it the true photo still looks nearer than another photo at every timestep tried."
)

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

# %% mystnb={"image": {"alt": "Three rows of two pictures: the photos, reconstructions with Tweedie's estimate, and reconstructions without it", "classes": "dark-light"}, "figure": {"caption": "The same short attack with and without Tweedie's estimate. Under each picture: MS-SSIM to the photo and final IR distance.", "name": "fig-tweedie-ablation"}}
two = photos[:2]
runs = {
    "with estimate": drag(Message(h[:2], client), prior, small, seeds=seed),
    "without estimate": drag(Message(h[:2], client), prior, small.with_(tweedie=False), seeds=seed),
}
similarity = {name: metrics.ms_ssim(run.images, two) for name, run in runs.items()}
for name, run in runs.items():
    record(f"ms_ssim_{name.replace(' ', '_')}", similarity[name], atol=0.08)
    record(f"distance_{name.replace(' ', '_')}", run.distance, atol=0.05)
record_panel("ablation", torch.cat([run.images for run in runs.values()]), min_ssim=0.5)
captions = {
    name: [f"{s:.2f}, distance {d:.3f}" for s, d in zip(similarity[name].tolist(), run.distance.tolist(), strict=True)]
    for name, run in runs.items()
}
plots.image_rows({"photo": two, **{name: run.images for name, run in runs.items()}}, names[:2], captions)

# %%
nearer = sum(
    bool(a < b) for a, b in zip(runs["with estimate"].distance, runs["without estimate"].distance, strict=True)
)
print(
    f"Closer to the message with the estimate: {nearer} of {len(two)} photos, {small.num_steps * small.recurrence} turns."
)
print("Two photos are an illustration of how to switch it off, no evidence of what it is worth.")

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

# %% mystnb={"image": {"alt": "One dot with a confidence bar per method: mean MS-SSIM of the attack with one and with sixteen turns per step, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, after block 12.", "name": "fig-recurrence"}}
run = pages.recorded("recurrence")
print(pages.origin(run) if run else pages.missing("recurrence"))
plots.intervals(pages.summaries(run, "ms_ssim"), "MS-SSIM") if run else None

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
# cheap = drag(h[:2], client, prior, small.with_(step="mpgd", guidance_rate=1.0), seeds=seed)
# print(cheap, runs["with estimate"], sep="\n")
# ```
#
# It saves the backward pass of the predictor. `guidance_rate` means something else for this step, a plain factor, and has to be chosen
# anew before the two can be compared.
#
# </details>

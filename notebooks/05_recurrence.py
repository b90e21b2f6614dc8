# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Recurrence: the same step again
#
# A diffusion sampler goes one way, from noise to picture, and each step is taken once. A guided sampler may want a
# second chance: at strong noise the gradient of the [last chapter](04_guidance.ipynb) is vague, and a step follows it
# only a little. DRAG takes a guided step, goes back up to the noise level it came from, and takes the step again,
# sixteen times in all. This is **self-recurrence**, and it multiplies the bill.
#
# **Goals.** See why one may go back at all, and what it costs in accuracy where everything can be calculated. Compare
# the same number of turns spent on many steps and on few repeated ones. Watch the IR distance within the turns of a
# step. Tell *more turns* from *going back*.
#
# **You need** the [prior](02_diffusion_prior.ipynb) and [guidance](04_guidance.ipynb).
#
# > **Cost:** CPU, about one minute (six short attacks on four photos), 1.2 GB of memory. Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns the compared attacks may take
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
from dragkit.attacks.drag import turn
from dragkit.attacks.guidance import AdamState
from draglab.chapters import ch05_recurrence as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study

device = "cuda" if torch.cuda.is_available() else "cpu"
turns = {"ci": 40, "laptop": 120, "colab": 400, "paper": 1000}[budget]
client = load_client(at="block:9", device=device)
prior = load_prior(device=device)
demo = data.demo_images(prior.image_size)
names, photos = list(demo), torch.stack(list(demo.values())).to(device)
with torch.no_grad():
    h = client(photos)

# %% [markdown]
# ## The way back
#
# A step leads from $z_t$ to $z_{t'}$ with $t' < t$. How do we return? The forward process knows: it makes noisy
# latents out of less noisy ones, by shrinking them and adding noise,
#
# $$ z_t = \sqrt{\frac{\bar\alpha_t}{\bar\alpha_{t'}}}\; z_{t'} + \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_{t'}}}\;\epsilon,
# \qquad \epsilon \sim \mathcal{N}(0, I). $$
#
# Put $z_{t'} = \sqrt{\bar\alpha_{t'}}\, z_0 + \sqrt{1-\bar\alpha_{t'}}\,\epsilon'$ in. The factor of $z_0$ becomes
# $\sqrt{\bar\alpha_t}$, and the two noises, independent of each other, add up to one of variance
#
# $$ \frac{\bar\alpha_t}{\bar\alpha_{t'}}\,(1-\bar\alpha_{t'}) + 1 - \frac{\bar\alpha_t}{\bar\alpha_{t'}} = 1 - \bar\alpha_t . $$
#
# So if $z_{t'}$ is distributed as it should be at $t'$, the result is distributed as it should be at $t$, **whatever
# the distribution of $z_0$**. No network and no approximation is involved. In the code it is the last thing that a
# turn does, unless it is the last turn of its step:

# %%
pages.source(schedule.renoise, turn)

# %% [markdown]
# The idea has two sources. **RePaint** (arXiv 2201.09865) fills holes in pictures: after one step the filling does
# not match its surroundings, and going back lets the two grow together. **Universal guidance** (arXiv 2302.07121)
# uses it for what DRAG uses it for: a guided step has left the plausible latents, and another round gives the prior
# its turn, and the guidance another try.
#
# ## Where everything can be calculated
#
# The way back is exact. The step before it is not. Let $z_0$ be a single number from $\mathcal{N}(0, 1)$: then $z_t$
# has variance 1 at *every* noise level, and the best noise prediction is $\sqrt{1-\bar\alpha_t}\, z_t$. With it a
# DDIM step is linear, $z_{t'} = m\, z_t + \sigma\epsilon$, and the variance after any number of turns is a short
# calculation. We do it at $t = 400$ for three step lengths, and check it by drawing samples.

# %%
pages.source(chapter.gaussian_step)

# %%
calculated, kept = {}, {}
for num_steps in (10, 40, 250):
    a_t, a_prev = chapter.ends(prior.alpha_bar, 400, num_steps)
    m, sigma = chapter.linear(a_t, a_prev)  # what the step makes of z, and of its noise
    variance, line = 1.0, []
    for _ in range(16):
        line.append(m**2 * variance + sigma**2)  # the step
        variance = a_t / a_prev * line[-1] + 1 - a_t / a_prev  # the way back
    calculated[f"T = {num_steps}"] = line
    kept[f"T = {num_steps}"] = m * (a_t / a_prev) ** 0.5

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three curves of the variance after each of sixteen turns: with 250 steps it stays at one, with 40 it sinks slightly, with 10 clearly, and each levels off", "classes": "dark-light"}, "figure": {"caption": "Variance of a unit Gaussian after each turn of a step at t = 400, unguided, with the exact noise predictor. It should be 1.", "name": "fig-marginal"}}
record("variance_after_16_turns", [line[-1] for line in calculated.values()], atol=1e-6)
plots.curves(
    calculated,
    range(1, 17),
    xlabel="turn",
    ylabel="variance",
    levels={"as it should be": 1.0},
    points=True,
)

# %% tags=["hide-input"]
random, count = torch.Generator().manual_seed(seed), 200_000
drawn = {
    f"T = {num_steps}": chapter.sampled(
        *chapter.ends(prior.alpha_bar, 400, num_steps), 16, count, random
    )
    for num_steps in (10, 40, 250)
}
chapter.agreement(calculated, drawn, count)

# %% [markdown]
# Where does variance go? A DDIM step puts Tweedie's *mean* in the place of $z_0$, and the spread of $z_0$ around that
# mean is lost. In a short step that matters little, in a long one much, and every further turn loses some again,
# until the fresh noise on the way back makes up for it. So the rule "recurrence keeps the distribution" holds for
# short steps. With few, long steps it makes latents too tame, and tame latents are smooth pictures.
#
# The same calculation says how long a push is remembered. Guidance adds something to $z_{t'}$. The way back shrinks
# it, the next step shrinks it again, and what is left after one more turn is the share
# $m \sqrt{\bar\alpha_t / \bar\alpha_{t'}}$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three falling curves of how much of a push is left after so many turns: with 10 steps it is nearly gone after a few turns, with 40 later, with 250 it stays", "classes": "dark-light"}, "figure": {"caption": "Share of a push that is left after further turns of the same step, for a unit Gaussian at t = 400.", "name": "fig-memory"}}
record("push_left_after_one_turn", list(kept.values()), atol=1e-6)
plots.curves(
    {label: [factor**j for j in range(17)] for label, factor in kept.items()},
    range(17),
    xlabel="further turns",
    ylabel="share of the push",
)

# %% tags=["hide-input"]
chapter.memory(kept)

# %% [markdown]
# So the turns of a long step do not add up: each overwrites a good part of the last one's work. The turns of a short
# step do.
#
# ## The same turns, spent in three ways
#
# Now the attack, on four photos. A turn costs the same wherever it is taken, so the fair comparison is at **equal
# turns**: one turn at each of many steps, four turns at a quarter of the steps, eight at an eighth. The fourth row
# has the *steps* of the first and four times its turns.

# %%
ways = {
    f"T={turns}, k=1": DragConfig(num_steps=turns, recurrence=1),
    f"T={turns // 4}, k=4": DragConfig(num_steps=turns // 4, recurrence=4),
    f"T={turns // 8}, k=8": DragConfig(num_steps=turns // 8, recurrence=8),
    f"T={turns}, k=4": DragConfig(num_steps=turns, recurrence=4),
}
runs = {
    way: drag(Message(h, client), prior, config, seeds=seed)
    for way, config in ways.items()
}
similarity = {way: metrics.ms_ssim(run.images, photos) for way, run in runs.items()}
first, second, third, long = ways

# %% tags=["hide-input"] mystnb={"image": {"alt": "Five rows of four pictures: the photos, and reconstructions with many single-turn steps, fewer steps of four turns, few steps of eight turns, and many steps of four turns", "classes": "dark-light"}, "figure": {"caption": "Rows two to four took equally many turns, the last row four times as many. Under each picture: MS-SSIM to the photo and IR distance.", "name": "fig-turns"}}
record("distance", [float(run.distance.mean()) for run in runs.values()], atol=0.06)
record("ms_ssim", [float(s.mean()) for s in similarity.values()], atol=0.08)
record_panel(
    "reconstructions",
    torch.cat([run.images for run in list(runs.values())[::3]]),
    min_ssim=0.5,
)
plots.image_rows(
    {"photo": photos, **{way: run.images for way, run in runs.items()}},
    names,
    {
        way: pages.captions(similarity[way].tolist(), run.distance.tolist())
        for way, run in runs.items()
    },
)

# %% tags=["hide-input"]
detail = {
    way: chapter.roughness(run.images) / chapter.roughness(photos)
    for way, run in runs.items()
}
record("detail", list(detail.values()), atol=0.15)
chapter.spent(runs, ways, similarity, detail)

# %% tags=["hide-input"]
chapter.compared(runs, ways, similarity, detail)

# %% [markdown]
# *Detail* is the mean difference between neighbouring pixels, relative to the photos'. Two handicaps of few steps
# have nothing to do with going back, and they are in the table too. The turns at $t = 0$ are idle, and there are $k$
# of them: with eight turns in each of five steps they are a fifth of the budget. And the first step starts at a lower
# $t$, with pure noise for a latent that should have a little signal in it already. The published settings have 250
# steps, and neither matters there.
#
# ## Inside a step
#
# If a further turn helps, the distance should fall from turn to turn *within* a step. The attack records it at every
# turn. First the whole way:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three falling curves of the IR distance against the turn, for the three ways of spending equally many turns", "classes": "dark-light"}, "figure": {"caption": "IR distance of the estimate, turn by turn, at equal turns. Means over four photos.", "name": "fig-trace"}}
traces = {way: run.trace["distance"].mean(1) for way, run in runs.items()}
equal = {way: traces[way] for way in (first, second, third)}
plots.curves(
    equal, range(1, len(traces[first]) + 1), xlabel="turn", ylabel="IR distance"
)

# %% [markdown]
# Then the turns of one step, in the run with many steps of four turns. Each curve is the mean over the steps of one
# part of the way, relative to their first turn.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three curves of the change of IR distance from the first to the fourth turn of a step, for steps at strong, medium and weak noise", "classes": "dark-light"}, "figure": {"caption": "Change of the IR distance within a step, from its first turn to its fourth. Means over four photos and a third of the steps.", "name": "fig-within"}}
within = traces[long].view(-1, 4)[:-1]  # without the idle turns at t = 0
change = chapter.thirds(within)
record("change_within_step", [float(line[-1]) for line in change.values()], atol=0.02)
plots.curves(
    change,
    range(1, 5),
    xlabel="turn of the step",
    ylabel="change of IR distance",
    levels={"first turn": 0.0},
    points=True,
)

# %% tags=["hide-input"]
chapter.progress(within, traces[first][:-1])

# %% [markdown]
# The estimate of a noisy latent is a blur, and one can only come so close with a blur of that noise level. What a
# further turn can do is change *which* blur it is. That would show later, as a better picture at the end, and not in
# the distance at once. Whether it does is for the comparison of end results, above and in the recorded runs below.
#
# ## Momentum that goes round
#
# Adam's moments are never reset: not at a new step, and not on the way back. So each turn starts with the memory of
# the turns before it, taken at other latents. Is that memory of use? The callback of `drag` gets the attack's state,
# so a reset at the end of every step is one line.


# %%
def forget(state):
    """Reset Adam after the last turn of a step."""
    if state.turn == ways[second].recurrence - 1:
        state.adam = AdamState.zeros_like(state.z)


reset = drag(Message(h, client), prior, ways[second], seeds=seed, callback=forget)

# %% tags=["hide-input"]
record("distance_reset", float(reset.distance.mean()), atol=0.06)
both = {
    f"never reset (DRAG, {ways[second].label})": runs[second],
    "reset at every step": reset,
}
pages.table(
    [f"{second}, mean of four photos", "IR distance", "MS-SSIM"],
    [
        [
            name,
            float(run.distance.mean()),
            float(metrics.ms_ssim(run.images, photos).mean()),
        ]
        for name, run in both.items()
    ],
)

# %% tags=["hide-input"]
chapter.memory_reset(runs[second], reset)

# %% [markdown]
# ## Where to spend turns
#
# Need $k$ be the same everywhere? **FreeDoM** (arXiv 2303.09833) goes back only in the middle of the way. At the
# beginning, its authors argue, everything is still open and gets overwritten; at the end all that matters has been
# settled; in between is where content takes shape. In their code for Stable Diffusion only the steps 70 to 40 of 100
# are repeated, three times each. DRAG has one $k$ for all steps; here a window is a setting, in shares of the timesteps.
# We try the middle, with the numbers of steps and turns of the last row above, and look at the turns inside a step again.

# %%
windowed = ways[long].with_(recurrence_window=(0.3, 0.7))
middle = drag(Message(h, client), prior, windowed, seeds=seed)

# %% tags=["hide-input"]
record("distance_window", float(middle.distance.mean()), atol=0.06)
spent = {
    f"{first} (never back)": runs[first],
    f"{long}, window 0.3 to 0.7": middle,
    f"{long} (everywhere)": runs[long],
}
pages.table(
    ["mean of four photos", "turns", "IR distance", "MS-SSIM"],
    [
        [
            name,
            run.nfe,
            float(run.distance.mean()),
            float(metrics.ms_ssim(run.images, photos).mean()),
        ]
        for name, run in spent.items()
    ],
)

# %% tags=["hide-input"]
chapter.window(change)

# %% [markdown]
# ## From four photos to a result
#
# A recorded run on validation photos, cut after the last block, compared $k = 1$ and $k = 16$ for the same number of
# *steps*. Compare the picture's quality with what the attacker sees.

# %% tags=["hide-input"]
recurrence = study("recurrence")
recurrence.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per method: mean MS-SSIM of the attack with one and with sixteen turns per step, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, after block 12, equal steps.", "name": "fig-recurrence-recorded"}}
recurrence.intervals("ms_ssim")

# %% tags=["hide-input"]
recurrence.show(chapter.equal_steps)

# %% [markdown]
# Sixteen times the turns were paid for that. The decisive comparison holds the turns fixed, for a range of $k$. It uses the settings
# that were chosen for this small prior on training photos ([chapter 7](07_ablations.ipynb)), and not the published ones:

# %% tags=["hide-input"]
curve = study("recurrence_curve")
curve.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per row: mean MS-SSIM of the attack for several numbers of turns per step, at equal turns and at equal steps, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, for several k at equal turns and at equal steps; block 12.", "name": "fig-recurrence-curve"}}
curve.at("block:12").intervals("ms_ssim")

# %% tags=["hide-input"]
curve.show(chapter.best_recurrence)

# %% [markdown]
# ## Summary
#
# - The way back adds noise by the forward process. It is exact for every distribution of pictures.
# - The step before it is exact only when it is short. Repeating long steps takes variance out of the latent, and forgets
#   what the turn before has done.
# - $k$ multiplies the price. "More recurrence helps" can mean *more turns help*; only a comparison at equal turns can tell.
# - The IR distance within a step says little about what a further turn is worth. Look at the end result.
# - Adam's memory goes round with the turns and is never reset.
#
# **What stops it?** Recurrence needs no more of the message than a single turn does, so nothing that the client does
# is aimed at it. What it needs is computing, and that is no protection: an attacker who has the message has all the
# time in the world.
#
# **What this does not show.** Four photos, one seed, one cut, and far fewer turns than the 4,000 of the paper. At 250
# steps a turn's push is remembered for many turns, and the balance between finer steps and more turns can tip. The
# calculation is for a Gaussian of one dimension; photos are not Gaussian.
#
# ## Exercises
#
# **1. A wrong way back.** Someone returns by adding noise of variance $\bar\alpha_{t'} - \bar\alpha_t$, without
# shrinking first. For which latents is that right? Try it in the calculation above.
#
# <details><summary>Solution</summary>
#
# The noise in $z_t$ has variance $1-\bar\alpha_t$, that in $z_{t'}$ has $1-\bar\alpha_{t'}$; the difference is what
# was added. So the *noise* is right, and the signal is too large by the factor $\sqrt{\bar\alpha_{t'}/\bar\alpha_t}$.
# It is right for latents without signal only. For a unit Gaussian the variance becomes
# $1 + \bar\alpha_{t'} - \bar\alpha_t$ after the first way back.
#
# </details>
#
# **2. How much of a push is left?** Show that for a unit Gaussian the factor is $\bar\alpha_t / \bar\alpha_{t'}$.
# What does it mean for the first steps, at strong noise, with 250 steps?
#
# <details><summary>Solution</summary>
#
# With $\epsilon_\theta = \sqrt{1-\bar\alpha_t}\, z_t$ Tweedie's estimate is $\sqrt{\bar\alpha_t}\, z_t$. Put both
# into the DDIM mean with $\eta = 1$, where
# $1 - \bar\alpha_{t'} - \sigma^2 = (1-\bar\alpha_{t'})^2\, \bar\alpha_t / \big(\bar\alpha_{t'} (1-\bar\alpha_t)\big)$:
#
# $$ m = \sqrt{\bar\alpha_{t'}\bar\alpha_t} + (1-\bar\alpha_{t'})\sqrt{\bar\alpha_t/\bar\alpha_{t'}} = \sqrt{\bar\alpha_t/\bar\alpha_{t'}} . $$
#
# The way back multiplies by the same root once more. At strong noise $\bar\alpha$ falls fastest from step to step, so
# that is where pushes are forgotten soonest:
#
# ```python
# for t in (40, 400, 800, 996):
#     print(t, float(prior.alpha_bar[t] / prior.alpha_bar[t - 4]))
# ```
#
# </details>
#
# **3. A stronger push.** Coarse steps forget, so let them push harder: run `ways[second].with_(guidance_rate=0.5)`,
# and the same for `ways[first]`. Does the comparison at equal turns change its sign?
#
# <details><summary>Solution</summary>
#
# ```python
# for way in (first, second):
#     print(way, drag(Message(h, client), prior, ways[way].with_(guidance_rate=0.5), seeds=seed))
# ```
#
# Both come closer to the message. When we ran it at budget `ci`, the finer steps stayed ahead, by a little less. The
# best rate depends on $k$ and on the number of steps, so a comparison at one rate is a comparison of settings, and
# not of ideas.
#
# </details>

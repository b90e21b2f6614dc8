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

# %%
import torch

from dragkit import data, schedule, zoo
from dragkit.attacks import guidance
from dragkit.attacks.drag import drag, turn
from dragkit.attacks.message import Message
from dragkit.config import DragConfig
from dragkit.measures import intervals, metrics
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel

device = "cuda" if torch.cuda.is_available() else "cpu"
turns = {"ci": 40, "laptop": 120, "colab": 400, "paper": 1000}[budget]
client = zoo.load_client(at="block:9", device=device)
prior = zoo.load_prior(device=device)
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
at, count = 400, 200_000
random = torch.Generator().manual_seed(seed)


def step(z, num_steps, noise):
    """A DDIM step at `at` with the exact predictor of a unit Gaussian, and the two values of alpha_bar."""
    a_t = schedule.alpha_bar_at(prior.alpha_bar, at)
    a_prev = schedule.alpha_bar_at(prior.alpha_bar, schedule.previous_timestep(at, num_steps))
    sigma = schedule.ddim_sigma(a_t, a_prev)
    eps = (1 - a_t) ** 0.5 * z
    return schedule.ddim_mean(schedule.tweedie(z, eps, a_t), eps, a_prev, sigma) + sigma * noise, a_t, a_prev


def draw():
    """Fresh standard normal numbers."""
    return torch.randn(count, generator=random, dtype=torch.float64)


calculated, largest, kept = {}, 0.0, {}
one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
for num_steps in (10, 40, 250):
    m, sigma = (float(step(z, num_steps, noise)[0]) for z, noise in ((one, zero), (zero, one)))
    z, variance, line = draw(), 1.0, []
    for _ in range(16):
        z, a_t, a_prev = step(z, num_steps, draw())
        line.append(m**2 * variance + sigma**2)
        largest = max(largest, abs(float(z.var()) / line[-1] - 1) / (2 / count) ** 0.5)
        z, variance = schedule.renoise(z, draw(), a_t, a_prev), a_t / a_prev * line[-1] + 1 - a_t / a_prev
    calculated[f"T = {num_steps}"] = line
    kept[f"T = {num_steps}"] = m * (a_t / a_prev) ** 0.5

# %% mystnb={"image": {"alt": "Three curves of the variance after each of sixteen turns: with 250 steps it stays at one, with 40 it sinks slightly, with 10 clearly, and each levels off", "classes": "dark-light"}, "figure": {"caption": "Variance of a unit Gaussian after each turn of a step at t = 400, unguided, with the exact noise predictor. It should be 1.", "name": "fig-marginal"}}
record("variance_after_16_turns", [line[-1] for line in calculated.values()], atol=1e-6)
plots.curves(calculated, range(1, 17), xlabel="turn", ylabel="variance", levels={"as it should be": 1.0}, points=True)

# %%
print(
    f"Samples and calculation differ by at most {largest:.1f} standard errors, in {16 * len(calculated)} comparisons."
)
for label, line in calculated.items():
    print(f"{label}: variance {line[0]:.4f} after one turn, {line[3]:.4f} after four, {line[-1]:.4f} after sixteen")

# %% [markdown]
# Where does variance go? A DDIM step puts Tweedie's *mean* in the place of $z_0$, and the spread of $z_0$ around that
# mean is lost. In a short step that matters little, in a long one much, and every further turn loses some again,
# until the fresh noise on the way back makes up for it. So the rule "recurrence keeps the distribution" holds for
# short steps. With few, long steps it makes latents too tame, and tame latents are smooth pictures.
#
# The same calculation says how long a push is remembered. Guidance adds something to $z_{t'}$. The way back shrinks
# it, the next step shrinks it again, and what is left after one more turn is the share
# $m \sqrt{\bar\alpha_t / \bar\alpha_{t'}}$.

# %% mystnb={"image": {"alt": "Three falling curves of how much of a push is left after so many turns: with 10 steps it is nearly gone after a few turns, with 40 later, with 250 it stays", "classes": "dark-light"}, "figure": {"caption": "Share of a push that is left after further turns of the same step, for a unit Gaussian at t = 400.", "name": "fig-memory"}}
record("push_left_after_one_turn", list(kept.values()), atol=1e-6)
plots.curves(
    {label: [factor**j for j in range(17)] for label, factor in kept.items()},
    range(17),
    xlabel="further turns",
    ylabel="share of the push",
)

# %%
for label, factor in kept.items():
    print(f"{label}: {factor:.0%} of a push are left after one more turn, {factor**15:.1%} after fifteen")

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
runs = {way: drag(Message(h, client), prior, config, seeds=seed) for way, config in ways.items()}
similarity = {way: metrics.ms_ssim(run.images, photos) for way, run in runs.items()}

# %% mystnb={"image": {"alt": "Five rows of four pictures: the photos, and reconstructions with many single-turn steps, fewer steps of four turns, few steps of eight turns, and many steps of four turns", "classes": "dark-light"}, "figure": {"caption": "Rows two to four took equally many turns, the last row four times as many. Under each picture: MS-SSIM to the photo and IR distance.", "name": "fig-turns"}}
record("distance", [float(run.distance.mean()) for run in runs.values()], atol=0.06)
record("ms_ssim", [float(s.mean()) for s in similarity.values()], atol=0.08)
record_panel("reconstructions", torch.cat([run.images for run in list(runs.values())[::3]]), min_ssim=0.5)


def under(way):
    """What stands under the pictures of a row."""
    pairs = zip(similarity[way].tolist(), runs[way].distance.tolist(), strict=True)
    return [f"{s:.2f}, {d:.2f}" for s, d in pairs]


plots.image_rows(
    {"photo": photos, **{way: run.images for way, run in runs.items()}}, names, {way: under(way) for way in runs}
)


# %%
def roughness(images):
    """Mean difference of pixels that lie above one another: what smoothing takes away."""
    return float((images[..., 1:, :] - images[..., :-1, :]).abs().mean())


first, second, third, long = runs
detail = {way: roughness(run.images) / roughness(photos) for way, run in runs.items()}
record("detail", list(detail.values()), atol=0.15)
mean = {way: float(run.distance.mean()) for way, run in runs.items()}
rows = [
    [
        way,
        run.nfe,
        ways[way].recurrence,
        schedule.ddim_timesteps(ways[way].num_steps)[0],
        mean[way],
        float(similarity[way].mean()),
        detail[way],
    ]
    for way, run in runs.items()
]
pages.table(["mean of four photos", "turns", "at t = 0", "first t", "IR distance", "MS-SSIM", "detail"], rows)

# %%
equal = [first, second, third]
best = min(equal, key=mean.get)
print(f"Equal turns, smallest IR distance: {best}.")
if best == first:
    print("At this budget, on these photos, finer steps are the better use of turns than repeating coarse ones.")
else:
    print("At this budget, on these photos, repeating coarse steps is worth more than finer ones.")
closer = int((runs[long].distance < runs[first].distance).sum())
nearer = int((similarity[long] > similarity[first]).sum())
print(
    f"Equal steps, four times the turns: closer to the message on {closer} of 4 photos, closer to the photo on {nearer}."
)
if detail[third] < detail[first] and detail[second] < detail[first]:
    print("Fewer, longer, repeated steps gave smoother pictures, as the calculation made one expect.")
still = {way: run.trace["distance"][-ways[way].recurrence :] for way, run in runs.items()}
if all(torch.allclose(last, last[:1].expand_as(last), atol=1e-3) for last in still.values()):
    print("In every run the turns at t = 0 changed nothing: there is no noise left to go up to, or to steer.")

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

# %% mystnb={"image": {"alt": "Three falling curves of the IR distance against the turn, for the three ways of spending equally many turns", "classes": "dark-light"}, "figure": {"caption": "IR distance of the estimate, turn by turn, at equal turns. Means over four photos.", "name": "fig-trace"}}
traces = {way: run.trace["distance"].mean(1) for way, run in runs.items()}
plots.curves({way: traces[way] for way in equal}, range(1, len(traces[first]) + 1), xlabel="turn", ylabel="IR distance")

# %% [markdown]
# Then the turns of one step, in the run with many steps of four turns. Each curve is the mean over the steps of one
# part of the way, relative to their first turn.

# %% mystnb={"image": {"alt": "Three curves of the change of IR distance from the first to the fourth turn of a step, for steps at strong, medium and weak noise", "classes": "dark-light"}, "figure": {"caption": "Change of the IR distance within a step, from its first turn to its fourth. Means over four photos and a third of the steps.", "name": "fig-within"}}
within = traces[long].view(-1, 4)[:-1]  # without the idle turns at t = 0
parts = dict(zip(("strong noise", "medium noise", "weak noise"), within.tensor_split(3), strict=True))
change = {part: (rows - rows[:, :1]).mean(0) for part, rows in parts.items()}
record("change_within_step", [float(line[-1]) for line in change.values()], atol=0.02)
plots.curves(
    change,
    range(1, 5),
    xlabel="turn of the step",
    ylabel="change of IR distance",
    levels={"first turn": 0.0},
    points=True,
)

# %%
inside = float((within[:, -1] - within[:, 0]).mean())
across = float((within[1:, 0] - within[:-1, 0]).mean())
print(f"From the first to the fourth turn of a step: {inside:+.4f} on average. From step to step: {across:+.4f}.")
if inside >= 0:
    print("The distance does not fall within a step. What lowers it is going on to the next one.")
elif inside > across / 2:
    print("The distance falls within a step, but most of the progress comes with going on to the next one.")
else:
    print("Most of the progress is made within steps.")
same = float((within[:, -1] - traces[first][:-1]).mean())
print(
    f"At the same timestep, k = 4 after its fourth turn minus k = 1: {same:+.3f} in IR distance, mean over the steps."
)

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
        state.adam = guidance.AdamState.zeros_like(state.z)


reset = drag(Message(h, client), prior, ways[second], seeds=seed, callback=forget)
record("distance_reset", float(reset.distance.mean()), atol=0.06)
both = {"never reset (DRAG)": runs[second], "reset at every step": reset}
pages.table(
    [f"{second}, mean of four photos", "IR distance", "MS-SSIM"],
    [
        [name, float(run.distance.mean()), float(metrics.ms_ssim(run.images, photos).mean())]
        for name, run in both.items()
    ],
)

# %%
gap = float(reset.distance.mean() - runs[second].distance.mean())
better = int((reset.distance < runs[second].distance).sum())
if abs(gap) < 0.03:
    print(
        f"On these photos it makes little difference: {gap:+.3f} in IR distance with the reset, closer on {better} of 4."
    )
else:
    print(f"The reset changes the mean IR distance by {gap:+.3f}; it is closer on {better} of 4 photos.")

# %% [markdown]
# ## Where to spend turns
#
# Need $k$ be the same everywhere? **FreeDoM** (arXiv 2303.09833) goes back only in the middle of the way. At the
# beginning, its authors argue, everything is still open and gets overwritten; at the end all that matters has been
# settled; in between is where content takes shape. In their code for Stable Diffusion only the steps 70 to 40 of 100
# are repeated, three times each. DRAG has one $k$ for all steps; here a window is a setting, in shares of the timesteps.
# We try the middle, with the numbers of steps and turns of the last row above, and look at the turns inside a step again.

# %%
middle = drag(Message(h, client), prior, ways[long].with_(recurrence_window=(0.3, 0.7)), seeds=seed)
record("distance_window", float(middle.distance.mean()), atol=0.06)
spent = {f"{first} (never back)": runs[first], f"{long}, window 0.3 to 0.7": middle, f"{long} (everywhere)": runs[long]}
pages.table(
    ["mean of four photos", "turns", "IR distance", "MS-SSIM"],
    [
        [name, run.nfe, float(run.distance.mean()), float(metrics.ms_ssim(run.images, photos).mean())]
        for name, run in spent.items()
    ],
)

# %%
window = {part: float(line[-1]) for part, line in change.items()}
print("Change of IR distance by three further turns: " + ", ".join(f"{p} {v:+.3f}" for p, v in window.items()) + ".")
if min(window.values()) < 0:
    print(f"If a window is anywhere, by this number it is at {min(window, key=window.get)}.")
else:
    print("By this number there is no window: further turns lower the distance nowhere, at this rate.")

# %% [markdown]
# ## From four photos to a result
#
# A recorded run on validation photos, cut after the last block, compared $k = 1$ and $k = 16$ for the same number of
# *steps*. Compare the picture's quality with what the attacker sees.

# %% mystnb={"image": {"alt": "One dot with a confidence bar per method: mean MS-SSIM of the attack with one and with sixteen turns per step, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, after block 12, equal steps.", "name": "fig-recurrence-recorded"}}
run = pages.recorded("recurrence")
print(pages.origin(run) if run else pages.missing("recurrence"))
plots.intervals(pages.summaries(run, "ms_ssim"), "MS-SSIM") if run else None

# %%
if run:
    few, many = (torch.tensor(run["rows"][k]["distance"]) for k in ("k=1", "k=16"))
    psnr = {k: run["rows"][k]["psnr"]["mean"] for k in ("k=1", "k=16")}
    print(f"Final IR distance: {few.mean():.3f} with k = 1, {many.mean():.3f} with k = 16.")
    print(
        f"Lower with k = 16 on {int((many < few).sum())} of {len(few)} photos. PSNR: {psnr['k=1']:.1f} and {psnr['k=16']:.1f} dB."
    )
    if many.mean() >= few.mean() and run["rows"]["k=16"]["ms_ssim"]["mean"] > run["rows"]["k=1"]["ms_ssim"]["mean"]:
        print(
            "The pictures are closer to the photos although the messages are not: the attacker's number did not see the gain."
        )

# %% [markdown]
# Sixteen times the turns were paid for that. The decisive comparison holds the turns fixed, for a range of $k$. It uses the settings
# that were chosen for this small prior on training photos ([chapter 7](07_ablations.ipynb)), and not the published ones:

# %% mystnb={"image": {"alt": "One dot with a confidence bar per row: mean MS-SSIM of the attack for several numbers of turns per step, at equal turns and at equal steps, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, for several k at equal turns and at equal steps; block 12.", "name": "fig-recurrence-curve"}}
curve = pages.recorded("recurrence_curve")
print(pages.origin(curve) if curve else pages.missing("recurrence_curve"))
plots.intervals(pages.summaries(pages.at_block(curve, "block:12"), "ms_ssim"), "MS-SSIM") if curve else None

# %%
for cut in reversed(curve["blocks"]) if curve else ():
    rows = pages.at_block(curve, cut)["rows"]
    for kind in ("equal turns", "equal steps"):
        scores = {name.split(",")[0]: row["ms_ssim"]["mean"] for name, row in rows.items() if name.endswith(kind)}
        best = max(scores, key=scores.get)
        print(f"{cut}, {kind}: the highest mean MS-SSIM is that of {best}: {scores[best]:.3f}.")
    gap = intervals.paired_difference(*(rows[f"k={k}, equal turns"]["per_photo"]["ms_ssim"] for k in (16, 1)))
    print(f"{cut}, k = 16 minus k = 1 at equal turns: {gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}).")
    if gap.high < 0:
        print(
            "At this scale and budget, turns spent on going back are turns lost: the claim of the paper does not hold here."
        )
    elif gap.low > 0:
        print("Going back is worth more than finer steps: the claim of the paper holds here.")

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
#     print(way, drag(h, client, prior, ways[way].with_(guidance_rate=0.5), seeds=seed))
# ```
#
# Both come closer to the message. When we ran it at budget `ci`, the finer steps stayed ahead, by a little less. The
# best rate depends on $k$ and on the number of steps, so a comparison at one rate is a comparison of settings, and
# not of ideas.
#
# </details>

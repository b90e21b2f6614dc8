# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DRAG assembled, and the overfit test
#
# All the parts are on the table: a [prior](02_diffusion_prior.ipynb), [Tweedie's estimate](03_tweedie.ipynb), a
# [guided step](04_guidance.ipynb) and the [way back](05_recurrence.ipynb). This chapter puts them together, and then
# does what one should do with any new machine: give it a job that it cannot fail, and look closely at how it fails.
#
# **Goals.** Read the whole algorithm beside the code that runs. Know the switch of every ingredient. Find out how far
# from perfect the attack is where perfection is possible, and whose fault that is. Check that runs repeat, stop and go
# on as they should. See which parts of a reconstruction the message determines, and which the prior made up.
#
# **You need** chapters 02 to 05.
#
# > **Cost:** CPU, about one minute (short attacks on one or two photos), 1.2 GB of memory. Measured: see the
# > [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns an attack may take
seed = 0

# %% tags=["hide-input"]
import inspect
import tempfile
from pathlib import Path

import torch

from dragkit import (
    DragConfig,
    Message,
    ThreatModel,
    data,
    drag,
    load_client,
    load_prior,
    metrics,
    restarts,
)
from dragkit.attacks.drag import NEEDS, begin, finish, gradient, guided_step, turn
from dragkit.attacks.restarts import STRIDE
from dragkit.measures.identification import evidence_map
from dragkit.priors.sampling import ddim_sample
from draglab.chapters import ch06_drag as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import Line, bullets, study

device = "cuda" if torch.cuda.is_available() else "cpu"
config = {
    "ci": DragConfig.ci(),
    "laptop": DragConfig.fast(),
    "colab": DragConfig.fast(),
    "paper": DragConfig.paper(),
}[budget]
client = load_client(at="block:0", device=device)
prior = load_prior(device=device)
demo = data.demo_images(prior.image_size)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)
with torch.no_grad():
    h = client(photos)

# %% [markdown]
# ## The algorithm
#
# **Given** a message $h$, the phone's half $f_c$, a prior with encoder, decoder $D$ and noise predictor
# $\epsilon_\theta$. **Wanted** a photo $x$ with $f_c(x) \approx h$.
#
# 1. Start from noise, $z_T \sim \mathcal{N}(0, I)$, and with Adam's moments at zero.
# 2. For each timestep $t$ from noisy to clean, $k$ times:
# 3. predict the noise, $\epsilon = \epsilon_\theta(z_t, t)$;
# 4. guess the finished latent, $\hat x_0 = (z_t - \sqrt{1-\bar\alpha_t}\,\epsilon) / \sqrt{\bar\alpha_t}$;
# 5. measure $d = d_H\big(f_c(D(\hat x_0)),\, h\big)$, token by token, and the size of the picture;
# 6. take the gradient of both at $z_t$, back through client, decoder and noise predictor;
# 7. clip it to the length 0.02,
# 8. and update Adam's moments with it: they give the direction $g$;
# 9. compute the mean $\mu$ of the DDIM step to $t'$;
# 10. add a step of the length that noise would have had, turned from noise towards $-g$ by the rate $w$;
# 11. unless this was the last of the $k$ turns, add noise to come back to $t$.
# 12. Decode $z_0$.
#
# The next table looks each item up in the installed package. If a line of it were no longer in the code, this page
# would not build.

# %%
chapter.located(
    [
        ("1 start", begin, "z = noise.draw("),
        ("2 loop", drag, "plan = "),
        ("3 predict noise", gradient, "eps = prior.predict_noise(leaf"),
        ("4 Tweedie", gradient, "x0_hat = schedule.tweedie(leaf"),
        ("5 distance", Message.measure, "return self.distance("),
        ("6 gradient", gradient, "torch.autograd.grad("),
        ("7 clip", turn, "guidance.clip_norm("),
        ("8 Adam", turn, "guidance.adam_direction("),
        ("9 DDIM mean", guided_step, "schedule.ddim_mean("),
        ("10 guided step", guided_step, "guidance.spherical_step("),
        ("11 way back", turn, "z = schedule.renoise("),
        ("12 decode", finish, "images = prior.decode("),
    ]
)

# %% [markdown]
# And the functions whole: the loop, a turn, its gradient, its step.

# %%
pages.source(drag, turn, gradient, guided_step)

# %% [markdown]
# Where this differs from the published code, it does so on purpose. There, norms are taken over the whole batch, so
# that a photo's reconstruction depends on its neighbours; here over one photo. There, every network collects
# gradients of its own weights; here they are frozen. There, one random stream serves all photos; here each photo has
# its own. For a single photo the arithmetic is the same.
#
# ## Every ingredient has a switch
#
# An ingredient that cannot be switched off cannot be judged. The table is made from the fields of `DragConfig` and
# its documentation; the second column holds the published settings.

# %% tags=["hide-input"]
chapter.switches(config)

# %% tags=["hide-input"]
chapter.differs(config)

# %% [markdown]
# ## What the attacker has
#
# The wall between attacker and photo is the list of arguments. A `ThreatModel` says in words what is on the
# attacker's side; it is printed with every result, and an attack that needs more is refused.

# %%
print("drag takes:", ", ".join(inspect.signature(drag).parameters))
print("drag needs:", NEEDS)
try:
    drag(Message(h, client), prior, config, threat=ThreatModel(weights=False))
except PermissionError as refused:
    print("refused:   ", refused)

# %% [markdown]
# `start` is a first guess of the attacker's, not the photo: DRAG++, from the same paper, gets it from a network that was
# trained to invert messages.
#
# ## The overfit test
#
# A new training loop is first tried on a single example: if it cannot learn that one by heart, it is broken. The
# counterpart here is a cut at the embeddings. Between photo and message stands one linear map per patch, and no
# attention. Who fails there owes an explanation, before anything at block 12 is believed.

# %% tags=["hide-input"]
chapter.room(photos, h, client)

# %%
last = {}


def keep(state):
    """Remember the last turn's estimate, which `final_tweedie=True` would decode."""
    last["x0_hat"] = state.x0_hat


reconstruction = drag(Message(h, client), prior, config, seeds=seed, callback=keep)
reconstruction

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows, one for each photo, of four pictures: the photo, a sample of the prior alone, the reconstruction at the embeddings, and the decoder's round trip", "classes": "dark-light"}, "figure": {"caption": "DRAG at the embeddings, a short run. Under each picture: MS-SSIM to the photo and IR distance to the message.", "name": "fig-overfit"}}
with torch.no_grad():
    ceiling = prior.decode(prior.encode(photos)).clamp(0, 1)
prior_only = ddim_sample(
    prior, range(seed, seed + len(photos)), config.num_steps, eta=config.eta
)
ours = f"DRAG ({config.label})"
shown = {
    "photo": photos,
    "prior only": prior_only,
    ours: reconstruction.images,
    "decoder ceiling": ceiling,
}
similarity = {name: metrics.ms_ssim(images, photos) for name, images in shown.items()}
distance = {
    name: chapter.apart(images, photos, client) for name, images in shown.items()
}
record("ms_ssim_overfit", similarity[ours], atol=0.08, direction="higher")
record("distance_overfit", distance[ours], atol=0.05, direction="lower")
record("distance_ceiling", distance["decoder ceiling"], atol=0.01)
record_panel("overfit", reconstruction.images, min_ssim=0.6)
under = [
    pages.captions(similarity[row].tolist(), distance[row].tolist())
    for row in list(shown)[1:]
]
plots.image_rows(
    {
        name: torch.stack([images[i] for images in shown.values()])
        for i, name in enumerate(names)
    },
    list(shown),
    {name: ["", *(texts[i] for texts in under)] for i, name in enumerate(names)},
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two curves, one per photo, of the IR distance against the turn, with horizontal lines for the prior alone and the decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "IR distance of the estimate (logarithmic), turn by turn, at the embeddings. The lines need the photos; the attacker does not see them.", "name": "fig-overfit-trace"}}
turns = config.num_steps * config.recurrence
plots.curves(
    {name: reconstruction.trace["distance"][:, i] for i, name in enumerate(names)},
    range(1, turns + 1),
    xlabel="turn",
    ylabel="IR distance",
    levels={
        f"{name} (mean)": float(distance[name].mean())
        for name in ("prior only", "decoder ceiling")
    },
    log=True,
)

# %% [markdown]
# ## Whose fault is the rest?
#
# Where a reconstruction falls short of the ceiling there are four suspects, and each leaves a trace of its own.
#
# - **The message**: it fits other pictures as well as the photo. Then the attack ends at a distance as small as the
#   ceiling's, and with another picture.
# - **The decoder**: it cannot draw the photo. That is the ceiling's distance from 1, and nothing else.
# - **The search**: it has not found the picture that fits best. Then the attack ends at a *larger* distance than the
#   ceiling. The ceiling's latent was there to be found, and was better by the attacker's own measure.
# - **The last step**: DRAG decodes $z_0$, which still holds the noise of the last timestep. Tweedie's estimate of the
#   last turn would not.
#
# So: the same attack with a quarter of the steps and with three times as many, and the last estimate decoded. And once
# more the threefold turns, spent on going back three times as often at the same steps.


# %%
def attack(**changes):
    """DRAG on the same message with some settings changed."""
    return drag(Message(h, client), prior, config.with_(**changes), seeds=seed)


short = attack(num_steps=config.num_steps // 4)
long = attack(num_steps=min(1000, 3 * config.num_steps))
often = attack(recurrence=3 * config.recurrence)
with torch.no_grad():
    cleaned = prior.decode(last["x0_hat"]).clamp(0, 1)

# %% tags=["hide-input"] mystnb={"image": {"alt": "One curve of the IR distance against the number of turns, with a band between the two photos, and a line for the decoder ceiling below it", "classes": "dark-light"}, "figure": {"caption": "Final IR distance (logarithmic) against the number of turns, at the embeddings. Mean and range of two photos.", "name": "fig-gap"}}
final = torch.stack([run.distance for run in (short, reconstruction, long)])
record("distance_by_turns", final.mean(1), atol=0.05, direction="lower")
plots.curves(
    {ours: final.mean(1)},
    [config.num_steps // 4 * config.recurrence, turns, 3 * turns],
    xlabel="turns",
    ylabel="final IR distance",
    bands={ours: (final.amin(1), final.amax(1))},
    levels={"decoder ceiling (mean)": float(distance["decoder ceiling"].mean())},
    log=True,
    points=True,
)

# %% tags=["hide-input"]
compared = {
    "prior only": prior_only,
    f"{ours}, {config.num_steps // 4 * config.recurrence} turns": short.images,
    f"{ours}, {turns} turns": reconstruction.images,
    f"{ours}, {3 * turns} turns": long.images,
    f"{3 * turns} turns, k = {3 * config.recurrence}": often.images,
    f"{turns} turns, last estimate decoded": cleaned,
    "decoder ceiling": ceiling,
}
reached = {
    name: chapter.outcome(images, photos, client) for name, images in compared.items()
}
chapter.outcomes(reached)

# %% tags=["hide-input"]
suspects = chapter.Suspects(*list(reached.values())[1:])
record("distance_more_recurrence", suspects.often.distance, atol=0.05)
chapter.blame(suspects, config.recurrence)

# %% [markdown]
# ### The recorded test
#
# With the published settings, on validation photos:

# %% tags=["hide-input"]
overfit = study("overfit")
overfit.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per row: mean MS-SSIM to the photo of DRAG at the embeddings, the mean image, the prior only and the decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, published settings at the embeddings.", "name": "fig-overfit-recorded"}}
overfit.intervals("ms_ssim")

# %% tags=["hide-input"]
overfit.show(chapter.recorded_overfit)

# %% tags=["hide-input"]
overfit.show(chapter.recorded_search, suspects, 3 * turns)

# %% [markdown]
# Why would a search fall short where nothing is hard? A likely reason is item 10. At rate 0.2 a step is a random step,
# turned by 14 degrees. The randomness shrinks with the noise level and is gone at $t = 0$; but so is the guidance,
# which has the same length by construction. What is not settled when the noise runs out stays unsettled. And each way
# back makes the latent noisy again: part of what a turn has found is forgotten ([chapter 5](05_recurrence.ipynb)). That
# would be the price of a sampler: it draws a *plausible* picture that fits, and is not the optimiser that fits best. At the
# embeddings an optimiser of pixels should have the easier life. The question that matters is which of the two fails
# first when the cut moves deeper.
#
# That can be tested. `DragConfig.small` is the same algorithm with settings chosen for this prior, on training photos: a shorter memory
# of Adam, a higher rate, less fresh noise, and no going back ([chapter 7](07_ablations.ipynb) has the search). The same test, the
# same photos, a quarter of the turns:

# %% tags=["hide-input"]
small = study("overfit_small")
small.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per row: mean MS-SSIM to the photo of DRAG with the small prior's settings at the embeddings, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, settings chosen for the small prior, at the embeddings.", "name": "fig-overfit-small"}}
small.intervals("ms_ssim")

# %% tags=["hide-input"]
small.show(chapter.settings_or_algorithm, overfit)

# %% [markdown]
# For all that follows: where the search falls short even here, a DRAG result is a *lower bound* on what the message
# gives away, and never a proof that something is safe.
#
# The picture's size is in the objective too, with the weight 0.01. It pulls towards grey. Where the distance is
# small, that is no longer nothing (exercise 2).
#
# ## Runs that can be trusted
#
# **Nothing is shared within a batch.** Norms, clipping, Adam's state and random stream belong to one photo. So two
# photos attacked together give what two runs of one give. Up to rounding: matrix products of another size add in
# another order.

# %%
brief = config.with_(num_steps=min(10, config.num_steps))
together = drag(Message(h, client), prior, brief, seeds=[seed, seed + 1])
first, second = (
    drag(Message(h[i : i + 1], client), prior, brief, seeds=[seed + i]) for i in (0, 1)
)
other_seed = drag(Message(h[:1], client), prior, brief, seeds=[seed + 2])

# %% tags=["hide-input"]
separate = torch.cat([first.images, second.images])
batch_gap = record(
    "batch_gap",
    float((together.images - separate).abs().max()),
    atol=0.02,
    direction="lower",
)
seed_gap = float((together.images[:1] - other_seed.images).abs().max())
Line(
    f"Largest difference of a colour value, together or alone: {batch_gap:.1e}. "
    f"For comparison, the same photo with another seed: {seed_gap:.1e}."
)

# %% [markdown]
# **A run that was stopped goes on.** With `checkpoint=`, the state (latent, Adam's moments, random streams, trace) is
# saved every minute and on Ctrl-C. Here a callback stops the attack in the middle. What comes back is marked as
# interrupted; a second call with the same arguments goes on from the file.

# %%
half = brief.num_steps * brief.recurrence // 2


def stop(state):
    """End the attack in the middle."""
    return state.iteration == half


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "attack.safetensors"
    again = {"seeds": [seed, seed + 1], "checkpoint": file}
    stopped = drag(Message(h, client), prior, brief, callback=stop, **again)
    resumed = drag(Message(h, client), prior, brief, **again)

# %% tags=["hide-input"]
resume_gap = float((resumed.images - together.images).abs().max())
record("resume_gap", resume_gap, atol=1e-4, direction="lower")
bullets(
    [
        f"stopped: {stopped}",
        f"resumed: {resumed}",
        f"Largest difference to the run that was never stopped: {resume_gap:.1e}",
        f"Turns in the resumed run's trace: {len(resumed.trace['distance'])}, all of them: {together.nfe}.",
    ]
)

# %% [markdown]
# A file that belongs to another attack is refused, also if only a seed differs.
#
# ## What the message determines, and what the prior invents
#
# A reconstruction is one draw. Another seed gives another, and where the message decides, the two agree. `restarts`
# runs the attack from several random starts, and names the one with the smallest IR distance as its answer, which is a
# choice the attacker can make. The **evidence map** is the standard deviation of each pixel over the restarts. It is
# the attacker's own doubt.
#
# One photo, three restarts, at the embeddings and at the very end of the network. For comparison, samples of the prior
# alone: the first three have the same seeds. Three are few, so the prior's map is the mean of the maps of four such
# triples.

# %%
cuts = {"block:0": client, "block:12": load_client(at="block:12", device=device)}
samples = {}
for at, cut in cuts.items():
    with torch.no_grad():
        message = Message(cut(photos[:1]), cut)
    samples[at] = restarts(drag, message, prior, config, num_samples=3, seeds=seed)
starts = [seed + i * STRIDE for i in range(12)]
alone = ddim_sample(prior, starts, config.num_steps, eta=config.eta)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three rows of three pictures: restarts of the attack at the embeddings, at block 12, and samples of the prior alone", "classes": "dark-light"}, "figure": {"caption": "Three restarts on one photo. Under each picture: MS-SSIM to the photo, and the IR distance by which the attacker chooses (*).", "name": "fig-restarts"}}
drawn = {at: tries.images[:, 0] for at, tries in samples.items()} | {
    "prior alone": alone[:3]
}
one = photos[:1].expand(3, -1, -1, -1)
scores = {name: metrics.ms_ssim(images, one) for name, images in drawn.items()}
captions = {at: chapter.chosen(tries, scores[at]) for at, tries in samples.items()}
captions["prior alone"] = [f"{score:.2f}" for score in scores["prior alone"].tolist()]
for at in samples:
    record(
        f"ms_ssim_restarts_{at.replace(':', '-')}", float(scores[at].mean()), atol=0.08
    )
record_panel("restarts", torch.cat([drawn[at] for at in samples]), min_ssim=0.4)
plots.image_rows(drawn, [f"restart {i}" for i in range(3)], captions)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three heat maps of the standard deviation of each pixel over restarts: at the embeddings, at block 12, and for samples of the prior alone", "classes": "dark-light"}, "figure": {"caption": "Evidence maps: where dark, three restarts agree. One colour scale for all.", "name": "fig-evidence"}}
maps = {at: evidence_map(drawn[at][:, None])[0] for at in samples}
maps["prior alone"] = torch.stack(
    [evidence_map(three[:, None])[0] for three in alone.split(3)]
).mean(0)
doubt = {name: float(values.mean()) for name, values in maps.items()}
record("evidence_mean", list(doubt.values()), atol=0.03)
plots.heat_maps(
    {f"{name}\nmean {doubt[name]:.3f}": values for name, values in maps.items()},
    "standard deviation",
    columns=3,
)

# %% tags=["hide-input"]
limit = {
    at: float(chapter.apart(ceiling[:1], photos, cut)[0]) for at, cut in cuts.items()
}
evidence = {
    at: chapter.evidence(at, tries, photos[0], scores[at], maps, limit[at])
    for at, tries in samples.items()
}
bullets(sentence for sentences in evidence.values() for sentence in sentences)

# %% [markdown]
# Two ways to be fooled by such a map. **Agreement is not truth.** Restarts can agree because the prior knows no
# alternative: then the map of the prior alone is dark in the same place. Or they share a mistake. The correlation with
# the true error says how far the map can be used as a warning, and only someone with the photo can compute it.
# **Disagreement is not a gap in the message** either: a search that stops early, from three starts, ends in three
# places. Where restarts end further from the message than the ceiling's picture, part of their doubt is of that kind.
# So the map shows what *this attack* reads, which is at most what the message holds.
#
# ## Summary
#
# - DRAG is a DDIM sampler whose noise is turned downhill: twelve items, each a line of code, each with a switch.
# - The attacker's side is a list of arguments. The photo is not among them, and a threat model is checked.
# - A gap to perfect has four possible causes: message, decoder, search, last step. The IR distance of the ceiling's
#   picture tells search from the rest.
# - A batch is no different from single runs, up to rounding; a stopped run goes on as if nothing had happened.
# - Restarts separate what is read from what is invented, if the prior's own map lies beside theirs.
#
# **What stops it?** At the embeddings, nothing that keeps the message as it is: a linear map is all there is. A cut
# this early is a transfer of the photo in another format. What can help is to send something else, or to cut later;
# the [claims table](../book/claims.md) says what has been tried.
#
# **What this does not show.** Two photos, one seed, and 80 turns at budget `ci`. Three restarts are few: a single
# pixel's deviation is uncertain by about half of its value. The recorded test is of one client and one prior.
#
# ## Exercises
#
# **1. Is it the rate?** At the embeddings the gradient is exact and there is little to be careful about. Run the
# overfit test with `guidance_rate=0.5` and compare the IR distance. Does the verdict on the search change?
#
# <details><summary>Solution</summary>
#
# ```python
# for rate in (0.1, 0.2, 0.5, 0.8):
#     run = drag(Message(h, client), prior, config.with_(guidance_rate=rate), seeds=seed)
#     print(rate, run.distance.mean(), metrics.ms_ssim(run.images, photos).mean())
# ```
#
# Compare each with the ceiling's distance before you acquit the search. And look at the pictures: at block 9, in
# [chapter 4](04_guidance.ipynb), the highest rate gave harsh colours. Two photos are enough to see such a thing, and
# too few to choose a rate.
#
# </details>
#
# **2. The pull towards grey.** Switch the regulariser off, `regularisation=0.0`. How large was its share of the
# objective at the end?
#
# <details><summary>Solution</summary>
#
# ```python
# size = (found.images * 2 - 1).square().flatten(1).mean(1)
# print(0.01 * size, found.distance)
# print(drag(Message(h, client), prior, config.with_(regularisation=0.0), seeds=seed))
# ```
#
# The mean square of a picture in $[-1, 1]$ is at most 1, so the term is at most 0.01. Next to the final distance of a
# short run that is small. It would matter to a search that comes close to the ceiling.
#
# </details>
#
# **3. Six restarts.** Repeat the restarts with `num_samples=6`. Which numbers of the evidence section move, and in
# which direction must the smallest IR distance go?
#
# <details><summary>Solution</summary>
#
# The first three restarts are the same, since restart $s$ depends on its own seed only. So the smallest distance can
# only fall. The map's mean moves little, single pixels move a lot, and whether the chosen one is the nearest stays a
# matter of luck as long as the distances are close together.
#
# </details>

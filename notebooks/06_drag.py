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

# %%
import dataclasses
import inspect
import re
import tempfile
from pathlib import Path

import torch

from dragkit import data, zoo
from dragkit.attacks.drag import NEEDS, begin, drag, finish, gradient, guided_step, turn
from dragkit.attacks.message import Message
from dragkit.attacks.restarts import STRIDE, restarts
from dragkit.attacks.threat import ThreatModel
from dragkit.config import DragConfig
from dragkit.distance import cosine_distance
from dragkit.measures import intervals, metrics
from dragkit.measures.identification import evidence_map
from dragkit.priors.sampling import ddim_sample
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel

device = "cuda" if torch.cuda.is_available() else "cpu"
config = {
    "ci": DragConfig.ci(),
    "laptop": DragConfig.fast(),
    "colab": DragConfig.fast(),
    "paper": DragConfig.paper(),
}[budget]
client = zoo.load_client(at="block:0", device=device)
prior = zoo.load_prior(device=device)
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
items = [
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


def find(function, beginning):
    """Number and text of the first line of a function's source that has `beginning` in it."""
    lines, first = inspect.getsourcelines(function)
    return next((first + i, line.strip()) for i, line in enumerate(lines) if beginning in line)


pages.table(
    ["item", "function", "line", "in dragkit/attacks/drag.py"],
    [[item, function.__qualname__, *find(function, beginning)] for item, function, beginning in items],
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

# %%
described = {}
documentation = inspect.getdoc(DragConfig).split("Attributes:\n")[1]
for entry in re.split(r"\n(?= {4}\w)", documentation):
    fields, text = entry.strip().split(": ", 1)
    described |= dict.fromkeys(fields.split(", "), re.sub(r"\s+", " ", text))

published, here = DragConfig.paper(), config
pages.table(
    ["DragConfig", "published", "on this page", "what it does"],
    [
        [field.name, getattr(published, field.name), getattr(here, field.name), described[field.name]]
        for field in dataclasses.fields(DragConfig)
    ],
)

# %%
turns = config.num_steps * config.recurrence
changed = [f.name for f in dataclasses.fields(DragConfig) if getattr(config, f.name) != getattr(published, f.name)]
print(f"Different on this page: {', '.join(changed) or 'nothing'}.")
print(f"Turns: {turns:,} instead of {published.num_steps * published.recurrence:,}.")

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

# %%
patch = photos[0].numel() // (h.shape[1] - client.layout.prefix_tokens)
print(f"A patch has {patch} numbers, its token {h.shape[2]}.")
if h.shape[2] >= patch:
    print("A linear map of that shape need not lose anything.")
else:
    print(
        f"So the message lacks {1 - h.shape[2] / patch:.0%} of the dimensions of every patch. The prior must fill in."
    )

# %%
last = {}


def keep(state):
    """Remember the estimate of the last turn, which `final_tweedie=True` would decode."""
    last["x0_hat"] = state.x0_hat


found = drag(Message(h, client), prior, config, seeds=seed, callback=keep)
print(found)

# %% mystnb={"image": {"alt": "Two rows, one for each photo, of four pictures: the photo, a sample of the prior alone, the reconstruction at the embeddings, and the decoder's round trip", "classes": "dark-light"}, "figure": {"caption": "DRAG at the embeddings, a short run. Under each picture: MS-SSIM to the photo and IR distance to the message.", "name": "fig-overfit"}}
with torch.no_grad():
    ceiling = prior.decode(prior.encode(photos)).clamp(0, 1)
prior_only = ddim_sample(prior, range(seed, seed + len(photos)), config.num_steps, eta=config.eta)
shown = {"photo": photos, "prior only": prior_only, "DRAG": found.images, "decoder ceiling": ceiling}


def apart(images, cut=client):
    """IR distance of images to the photos, `(B,)`."""
    with torch.no_grad():
        return cosine_distance(cut.tokens(cut(images)), cut.tokens(cut(photos[: len(images)])))


similarity = {name: metrics.ms_ssim(images, photos) for name, images in shown.items()}
distance = {name: apart(images) for name, images in shown.items()}
record("ms_ssim_overfit", similarity["DRAG"], atol=0.08, direction="higher")
record("distance_overfit", distance["DRAG"], atol=0.05, direction="lower")
record("distance_ceiling", distance["decoder ceiling"], atol=0.01)
record_panel("overfit", found.images, min_ssim=0.6)
plots.image_rows(
    {name: torch.stack([images[i] for images in shown.values()]) for i, name in enumerate(names)},
    list(shown),
    {
        name: ["", *(f"{similarity[row][i]:.2f}, {distance[row][i]:.3f}" for row in list(shown)[1:])]
        for i, name in enumerate(names)
    },
)

# %% mystnb={"image": {"alt": "Two curves, one per photo, of the IR distance against the turn, with horizontal lines for the prior alone and the decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "IR distance of the estimate (logarithmic), turn by turn, at the embeddings. The lines need the photos; the attacker does not see them.", "name": "fig-overfit-trace"}}
plots.curves(
    {name: found.trace["distance"][:, i] for i, name in enumerate(names)},
    range(1, turns + 1),
    xlabel="turn",
    ylabel="IR distance",
    levels={
        "prior only (mean)": float(distance["prior only"].mean()),
        "decoder ceiling (mean)": float(distance["decoder ceiling"].mean()),
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
runs = {
    config.num_steps // 4 * config.recurrence: drag(Message(h, client), prior, config.with_(num_steps=config.num_steps // 4), seeds=seed),
    turns: found,
    3 * turns: drag(Message(h, client), prior, config.with_(num_steps=min(1000, 3 * config.num_steps)), seeds=seed),
}
back = drag(Message(h, client), prior, config.with_(recurrence=3 * config.recurrence), seeds=seed)
with torch.no_grad():
    cleaned = prior.decode(last["x0_hat"]).clamp(0, 1)

# %% mystnb={"image": {"alt": "One curve of the IR distance against the number of turns, with a band between the two photos, and a line for the decoder ceiling below it", "classes": "dark-light"}, "figure": {"caption": "Final IR distance (logarithmic) against the number of turns, at the embeddings. Mean and range of two photos.", "name": "fig-gap"}}
final = torch.stack([run.distance for run in runs.values()])
record("distance_by_turns", final.mean(1), atol=0.05, direction="lower")
plots.curves(
    {"DRAG": final.mean(1)},
    list(runs),
    xlabel="turns",
    ylabel="final IR distance",
    bands={"DRAG": (final.amin(1), final.amax(1))},
    levels={"decoder ceiling (mean)": float(distance["decoder ceiling"].mean())},
    log=True,
    points=True,
)

# %%
compared = {
    "prior only": prior_only,
    **{f"DRAG, {n} turns": run.images for n, run in runs.items()},
    f"{3 * turns} turns, k = {3 * config.recurrence}": back.images,
    f"{turns} turns, last estimate decoded": cleaned,
    "decoder ceiling": ceiling,
}
means = {
    name: [float(m(images, photos).mean()) for m in (metrics.ms_ssim, metrics.psnr, metrics.st_lpips)]
    for name, images in compared.items()
}
reached = {name: float(apart(images).mean()) for name, images in compared.items()}
pages.table(
    ["mean of two photos", "MS-SSIM", "PSNR (dB)", "ST-LPIPS", "IR distance"],
    [[name, *values, reached[name]] for name, values in means.items()],
)

# %%
short, middle, long = (f"DRAG, {n} turns" for n in runs)
often = f"{3 * turns} turns, k = {3 * config.recurrence}"
record("distance_more_recurrence", reached[often], atol=0.05)
best = reached["decoder ceiling"]
print(f"IR distance: {reached[short]:.3f}, {reached[middle]:.3f}, {reached[long]:.3f}; ceiling {best:.3f}.")
if reached[long] > best:
    print("Also the longest run ends further from the message than the ceiling's picture. The search is guilty.")
else:
    print("The longest run fits the message as well as the ceiling's picture does. The search is not to blame.")
share = (1 - means["decoder ceiling"][0]) / (1 - means[long][0])
print(f"Of the MS-SSIM that the longest run lacks to 1, the decoder's own limit is {share:.0%}.")
gain = means[f"{turns} turns, last estimate decoded"][0] - means[middle][0]
print(f"Decoding the last estimate instead of z_0: {gain:+.4f} in MS-SSIM. Three times the turns: ", end="")
print(f"{means[long][0] - means[middle][0]:+.3f}.")
print(f"The threefold turns spent on going back, k = {3 * config.recurrence}: IR distance {reached[often]:.3f}.")
if reached[often] > reached[middle] - 0.01:
    print(f"That is no closer to the message than a third of the turns with k = {config.recurrence}.")
elif reached[often] > reached[long]:
    print("That helps, but finer steps were the better use of the turns.")
else:
    print("That was at least as good a use of the turns as finer steps.")

# %% [markdown]
# ### The recorded test
#
# With the published settings, on photos of the validation split:

# %% mystnb={"image": {"alt": "One dot with a confidence bar per row: mean MS-SSIM to the photo of DRAG at the embeddings, the mean image, the prior only and the decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, published settings at the embeddings.", "name": "fig-overfit-recorded"}}
overfit = pages.recorded("overfit")
print(pages.origin(overfit) if overfit else pages.missing("overfit"))
plots.intervals(pages.summaries(overfit, "ms_ssim"), "MS-SSIM") if overfit else None


# %%
def read_overfit(result):
    """What the recorded overfit test says, in sentences."""
    got, possible = (torch.tensor(result["rows"][n]["per_photo"]["ms_ssim"]) for n in ("DRAG", "decoder ceiling"))
    mean, low, high = intervals.bootstrap_ci(got)
    print(f"{result['rows']['DRAG']['nfe']:,} turns: MS-SSIM {mean:.3f} (95 % interval {low:.3f} to {high:.3f}).")
    print(
        f"0.95 or more: {int((got >= 0.95).sum())} of {len(got)} photos; the decoder: {int((possible >= 0.95).sum())}."
    )
    gap = intervals.paired_difference(possible, got)
    print(f"Ceiling minus DRAG, photo by photo: {gap.mean:.3f} ({gap.low:.3f} to {gap.high:.3f}).")
    print(f"The test asks for 0.95: {'reached' if low > 0.95 else 'missed' if high < 0.95 else 'open'}.")
    if gap.low > 0:
        print("The attack stays below what its own decoder can draw.")
    elif gap.high < 0:
        print("The attack is above the decoder's round trip: the encoder does not find the best latent.")
    else:
        print("Attack and decoder's round trip are not told apart.")
    print(f"The decoder's own limit is {float((1 - possible).mean() / (1 - got).mean()):.0%} of what is missing to 1.")
    ending = torch.tensor(result["rows"]["DRAG"]["distance"])
    print(f"Final IR distance: mean {ending.mean():.3f}, smallest {ending.min():.3f}.")
    print(f"For comparison, the ceiling's pictures of this page's two photos are at {best:.3f}.")
    if float(ending.min()) > best:
        print("Not one photo's message was fitted that well: the search has a part in the gap of every photo.")
    elif float(ending.mean()) > best:
        print("On average the messages were not fitted that well: the search has a part in the gap.")
    else:
        print("On average the messages were fitted as well. What is missing belongs to message and decoder.")
    print(
        f"This page's {3 * turns} turns ended at {reached[long]:.3f}, MS-SSIM {means[long][0]:.3f}, on two other photos."
    )
    if reached[long] < float(ending.mean()) and 3 * turns < result["rows"]["DRAG"]["nfe"]:
        print("Fewer turns came closer. A hint, on other photos, that many turns of the published kind are no cure.")


if overfit:
    read_overfit(overfit)

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

# %% mystnb={"image": {"alt": "One dot with a confidence bar per row: mean MS-SSIM to the photo of DRAG with the small prior's settings at the embeddings, and of the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, settings chosen for the small prior, at the embeddings.", "name": "fig-overfit-small"}}
small = pages.recorded("overfit_small")
print(pages.origin(small) if small else pages.missing("overfit_small"))
plots.intervals(pages.summaries(small, "ms_ssim"), "MS-SSIM") if small else None

# %%
if small and overfit:
    scores = [run["rows"]["DRAG"]["per_photo"]["ms_ssim"] for run in (small, overfit)]
    gain = intervals.paired_difference(*scores)
    low = small["rows"]["DRAG"]["ms_ssim"]["ci"][0]
    print(
        f"Small prior's settings minus published, photo by photo: {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})."
    )
    print(f"The test asks for 0.95: {'reached' if low > 0.95 else 'not reached beyond doubt'} with these settings.")
    if gain.low > 0:
        print("So it was the settings that fell short, not the algorithm.")

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
single = [drag(Message(h[i : i + 1], client), prior, brief, seeds=[seed + i]) for i in range(2)]
batch_gap = float((together.images - torch.cat([run.images for run in single])).abs().max())
other_seed = drag(Message(h[:1], client), prior, brief, seeds=[seed + 2])
seed_gap = float((together.images[:1] - other_seed.images).abs().max())
print(
    f"Largest difference of a colour value, together or alone: {record('batch_gap', batch_gap, atol=0.02, direction='lower'):.1e}"
)
print(f"For comparison, the same photo with another seed:        {seed_gap:.1e}")

# %% [markdown]
# **A run that was stopped goes on.** With `checkpoint=`, the state (latent, Adam's moments, random streams, trace) is
# saved every minute and on Ctrl-C. Here a callback stops the attack in the middle. What comes back is marked as
# interrupted; a second call with the same arguments goes on from the file.

# %%
half = brief.num_steps * brief.recurrence // 2
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "attack.safetensors"
    arguments = {"seeds": [seed, seed + 1], "checkpoint": file}
    stopped = drag(Message(h, client), prior, brief, **arguments, callback=lambda state: state.iteration == half)
    resumed = drag(Message(h, client), prior, brief, **arguments)
print("stopped:", stopped)
print("resumed:", resumed)
resume_gap = float((resumed.images - together.images).abs().max())
print(
    f"Largest difference to the run that was never stopped: {record('resume_gap', resume_gap, atol=1e-4, direction='lower'):.1e}"
)
print(f"Turns in the resumed run's trace: {len(resumed.trace['distance'])}, all of them: {together.nfe}.")

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
deep = zoo.load_client(at="block:12", device=device)
cuts = {"block:0": client, "block:12": deep}
samples = {}
for at, cut in cuts.items():
    with torch.no_grad():
        message = cut(photos[:1])
    samples[at] = restarts(drag, message, cut, prior, config, num_samples=3, seeds=seed)
starts = [seed + i * STRIDE for i in range(12)]
drawn = {at: tries.images[:, 0] for at, tries in samples.items()}
alone = ddim_sample(prior, starts, config.num_steps, eta=config.eta)
drawn["prior alone"] = alone[:3]

# %% mystnb={"image": {"alt": "Three rows of three pictures: restarts of the attack at the embeddings, at block 12, and samples of the prior alone", "classes": "dark-light"}, "figure": {"caption": "Three restarts on one photo. Under each picture: MS-SSIM to the photo, and the IR distance by which the attacker chooses (*).", "name": "fig-restarts"}}
one = photos[:1].expand(3, -1, -1, -1)
captions = {"prior alone": [f"{s:.2f}" for s in metrics.ms_ssim(drawn["prior alone"], one).tolist()]}
scores = {at: metrics.ms_ssim(drawn[at], one) for at in samples}
for at, tries in samples.items():
    pairs = zip(scores[at].tolist(), tries.distance[:, 0].tolist(), strict=True)
    captions[at] = [f"{s:.2f}, {d:.3f}{' *' * (i == int(tries.chosen[0]))}" for i, (s, d) in enumerate(pairs)]
    record(f"ms_ssim_restarts_{at.replace(':', '-')}", float(scores[at].mean()), atol=0.08)
record_panel("restarts", torch.cat([samples[at].images[:, 0] for at in samples]), min_ssim=0.4)
plots.image_rows(drawn, [f"restart {i}" for i in range(3)], captions)

# %% mystnb={"image": {"alt": "Three heat maps of the standard deviation of each pixel over restarts: at the embeddings, at block 12, and for samples of the prior alone", "classes": "dark-light"}, "figure": {"caption": "Evidence maps: where dark, three restarts agree. One colour scale for all.", "name": "fig-evidence"}}
maps = {at: evidence_map(drawn[at][:, None])[0] for at in samples}
maps["prior alone"] = torch.stack([evidence_map(three[:, None])[0] for three in alone.split(3)]).mean(0)
doubt = {at: float(values.mean()) for at, values in maps.items()}
record("evidence_mean", list(doubt.values()), atol=0.03)
plots.heat_maps(
    {f"{at}\nmean {doubt[at]:.3f}": values for at, values in maps.items()},
    "standard deviation",
    columns=3,
)


# %%
def by_patch(values):
    """Means over patches of 8 x 8 pixels: three restarts say little about a single pixel."""
    return torch.nn.functional.avg_pool2d(values[None], 8)[0]


free = by_patch(maps["prior alone"])
for at, tries in samples.items():
    share = doubt[at] / doubt["prior alone"]
    settled = float((by_patch(maps[at]) < free / 2).float().mean())
    print(f"{at}: {share:.0%} of the prior's own variation is left; less than half in {settled:.0%} of the patches.")
    wrong = (drawn[at].mean(0) - photos[0]).abs().mean(0)
    agreement = torch.corrcoef(torch.stack([by_patch(maps[at]).flatten(), by_patch(wrong).flatten()]))[0, 1]
    print(f"   Correlation of doubt with the true error, over patches: {float(agreement):+.2f}.")
    nearest = int(tries.chosen[0]) == int(scores[at].argmax())
    print(f"   The restart of smallest IR distance is {'' if nearest else 'not '}the one nearest to the photo.")
    possible = float(apart(ceiling[:1], cuts[at])[0])
    short = int((tries.distance[:, 0] > possible).sum())
    print(
        f"   {short} of 3 restarts end further from the message than the ceiling's picture, which is at {possible:.3f}."
    )

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
#     run = drag(h, client, prior, config.with_(guidance_rate=rate), seeds=seed)
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
# print(0.01 * size, distance["DRAG"])
# print(drag(h, client, prior, config.with_(regularisation=0.0), seeds=seed))
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

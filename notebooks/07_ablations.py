# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deep layers: what each ingredient is worth
#
# DRAG is a dozen ingredients. Each comes with a good story, and the chapters before this one told them. A story is
# not a measurement. Here the ingredients are taken out one by one, at the cut where the attack has the hardest job,
# and the pictures are compared photo by photo.
#
# **Goals.** See how depth changes the attack, and ask what is in a deep message at all. Read paired differences with
# intervals. Learn which ingredients pay at this scale, and how to tell when a comparison cannot say.
#
# **You need** the [assembled attack](06_drag.ipynb) and the terms of [guidance](04_guidance.ipynb).
#
# > **Cost:** CPU, less than a minute (two short attacks on two photos), 1.2 GB of memory. All else is recorded.
# > Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns the two live attacks may take
seed = 0

# %% tags=["hide-input"]
import torch

from dragkit import (
    DragConfig,
    Message,
    cosine_distance,
    data,
    drag,
    load_client,
    load_prior,
    metrics,
)
from dragkit.measures.readout import fit_readout
from draglab.chapters import ch07_ablations as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study

device = "cuda" if torch.cuda.is_available() else "cpu"
config = DragConfig.small(
    {"ci": 80, "laptop": 200, "colab": 400, "paper": 1000}[budget]
)
prior = load_prior(device=device)
demo = data.demo_images(prior.image_size)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)

# %% [markdown]
# ## Deeper
#
# The same short attack, once after block 3 and once after block 12, on the same photos with the same seeds. IR
# distances of different blocks are measured in different spaces. To compare them, we give each a unit: the distance
# between the messages of the two photos at that block. Zero is the photo itself, one is *somebody else's photo*.

# %%
runs, unit, similarity = {}, {}, {}
for at in ("block:3", "block:12"):
    client = load_client(at=at, device=device)
    with torch.no_grad():
        h = client(photos)
        tokens = client.tokens(h)
        unit[at] = float(cosine_distance(tokens, tokens.roll(1, 0)).mean())
    runs[at] = drag(Message(h, client), prior, config, seeds=seed)
    similarity[at] = metrics.ms_ssim(runs[at].images, photos)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three rows of two pictures: the photos, and reconstructions from block 3 and from block 12", "classes": "dark-light"}, "figure": {"caption": "The same attack at two depths. Under each picture: MS-SSIM to the photo and IR distance to the message.", "name": "fig-depth"}}
for at, run in runs.items():
    record(f"ms_ssim_{at.replace(':', '_')}", similarity[at], atol=0.1)
    record(f"distance_{at.replace(':', '_')}", run.distance, atol=0.06)
    record(f"unit_{at.replace(':', '_')}", unit[at], atol=0.005)
record_panel("depth", torch.cat([run.images for run in runs.values()]), min_ssim=0.4)
plots.image_rows(
    {"photo": photos, **{at: run.images for at, run in runs.items()}},
    names,
    {
        at: pages.captions(similarity[at].tolist(), run.distance.tolist())
        for at, run in runs.items()
    },
)

# %% tags=["hide-input"]
chapter.depths(runs, similarity, unit)

# %% tags=["hide-input"]
chapter.what_depth_did(runs, similarity, unit)

# %% [markdown]
# ## What is in the message, without any attack
#
# When an attack fails at block 12, two explanations compete. Either the message no longer determines the photo, and
# no attack can do better. Or it does, and the attack does not find it. An attack's own result cannot separate the
# two, but a much simpler reader can: **a linear map**, fitted by ridge regression on thousands of (message, photo)
# pairs, from a token to the pixels of its patch. It does not search, and it has no idea of photos but their mean.

# %%
pages.source(fit_readout)

# %% [markdown]
# Whatever such a map shows on photos it was not fitted on, *is in the message*: a lower bound, and an honest one. It
# proves nothing in the other direction. What a linear map cannot read may still be there for a better reader. And it
# needs something that DRAG does not: public photos, and a phone's half to run them through.
#
# The recorded comparison on the published ViT-S, `deep`, used it to choose its cut: from the last block upwards,
# the first at which the linear map reaches an MS-SSIM of 0.6 on training photos it has not seen.

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per block of the published ViT-S: MS-SSIM of the photo that a linear map reads from the message", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM of a linear readout of the message, mean and 95 % interval, by block (ViT-S, unseen training photos).", "name": "fig-readout"}}
deep = study("deep")
deep.show(chapter.readouts)

# %% tags=["hide-input"]
deep.show(chapter.against_readout)

# %% [markdown]
# The two numbers come from different photos (training and validation), so their intervals are compared, and not photo
# by photo.
#
# ## One ingredient at a time
#
# The recorded ablation cuts the in-house ViT after its last block. All variants attack the same validation photos
# with the same seeds and as many turns. `DragConfig.small` is the base: the published ingredients, with settings for
# small models that were chosen on training photos (below).

# %%
# DragConfig.small(100), where it differs from the published settings:
pages.changed(DragConfig.small(100), DragConfig.paper())

# %% tags=["hide-input"]
ablations = study("ablations")
ablations.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per variant of DRAG and per reference row: mean ST-LPIPS to the photo after block 12", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer), mean and 95 % interval, one ingredient of DRAG (small, k=1) changed at a time, block 12.", "name": "fig-ablations"}}
ablations.at("block:12").intervals("st_lpips")

# %% [markdown]
# These bars are mostly the spread of the *photos*: some are easy for every variant. That two bars overlap therefore
# says nothing. The comparison is made photo by photo: the variant's value minus DRAG's, and then the mean with its
# interval.

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per variant: mean paired difference in ST-LPIPS to DRAG; to the right of zero the variant is worse", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS of the variant minus that of DRAG (small, k=1) on the same photo, mean and 95 % interval. Right of zero: the change makes it worse.", "name": "fig-ablation-differences"}}
ablations.at("block:12").show(chapter.differences)

# %% tags=["hide-input"]
ablations.at("block:12").show(chapter.verdicts)

# %% tags=["hide-input"]
ablations.at("block:12").show(chapter.by_both)

# %% [markdown]
# The same changes in the middle of the network, after block 6, beside those after block 12:


# %% tags=["hide-input"]
ablations.show(chapter.at_both)

# %% tags=["hide-input"]
ablations.show(chapter.opposed_by_depth)

# %% [markdown]
# How to read it, and how not to.
#
# - *Not told apart* is a statement about this measurement: so many photos, so many turns. It is not "makes no difference".
# - An ingredient is taken out while all other settings stay as they were chosen *with* it. That favours the base: a
#   raw gradient may want another rate than Adam's direction.
# - The same holds for DPS, UGD and MPGD. Their rates mean other things, and a rate for each was set once and is not
#   tuned. A "worse" in these rows is a statement about that rate. [Chapter 4](04_guidance.ipynb) shows how much it
#   matters.
# - "Decode the last latent" changes the last step only: the published attack does not end with Tweedie's estimate.
# - The rows "published" undo what the search for the small prior changed, one setting or all of them.
#
# ## How hard to push
#
# The guidance rate once more, now measured. Too low ignores the message, too high leaves the prior.

# %% tags=["hide-input"]
rates = study("rates")
rates.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per guidance rate: mean ST-LPIPS to the photo, and the reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer), mean and 95 % interval, by guidance rate, block 12.", "name": "fig-rate-sweep"}}
rates.at("block:12").intervals("st_lpips")

# %% tags=["hide-input"]
rates.show(chapter.optimum)

# %% [markdown]
# The best rate is named *after* looking at these photos. That is fine for the question of the sweep, which is whether
# there is an optimum inside. It would be wrong as a choice of settings; those come from training photos.
#
# ## How long to push
#
# Is a bad picture at block 12 a matter of patience? Every method, each with as many seconds as DRAG needs for 20 to 160
# turns. Most of the others have cheaper iterations, so they get more of them ([chapter 8](08_baselines.ipynb) explains the
# methods). The inverse network answers at once and has one value.

# %% tags=["hide-input"]
budgets = study("budgets")
budgets.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves with bands over the budget in turns of DRAG: mean ST-LPIPS of each method, and a horizontal line for the inverse network", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer) against the budget, in turns of DRAG (small, k=1); the others have the same seconds. Means and 95 % intervals, block 12.", "name": "fig-budgets"}}
budgets.show(chapter.over_time)

# %% tags=["hide-input"]
budgets.show(chapter.last_doubling)

# %% tags=["hide-input"]
budgets.show(chapter.against_rivals)

# %% [markdown]
# Seconds were equalised by timing the attacks side by side first, on a machine that had other things to do: take their
# ratio as rough. Where the last doubling of the budget still gives a clear improvement, the attack has not converged, and
# its result is a lower bound on what leaks. [Chapter 8](08_baselines.ipynb) has the published budgets, on fewer photos.
#
# ## Where the settings come from
#
# `DragConfig.small` was chosen on *training* photos, at two cuts, the embeddings and block 12: random trials, then one setting of
# the best trial at a time. The best is the one with the lowest ST-LPIPS in the mean over both cuts. The log is kept
# whole, with the losers. The tables compare each setting with the winner, photo by photo.

# %% tags=["hide-input"]
search = study("search")
search.origin

# %% tags=["hide-input"]
search.show(chapter.leaders, "block:0")

# %% tags=["hide-input"]
search.show(chapter.leaders, "block:12")

# %% tags=["hide-input"]
search.show(chapter.ties)

# %% [markdown]
# The best of many settings on a few photos is partly the luckiest of many. Its advantage on *these* photos is an
# overestimate; what it is worth on others is what the ablation above measured, on photos that the search never saw.
#
# ## Summary

# %% tags=["hide-input"]
ablations.at("block:12").show(chapter.summary)

# %% [markdown]
# - Depth acts in two ways that look alike: the message may determine less, or the search may get harder. A linear
#   readout bounds the first from below.
# - Ingredients are judged by paired differences on the same photos. Overlapping bars of means say nothing.
# - Two metrics can disagree, and then the finding is that they disagree.
# - "Not told apart" and "worth nothing" are different findings.
# - Settings come from training photos, results from validation photos.
#
# **What stops it?** Not depth alone. As long as a linear map still reads the photo from a message, a failed attack
# says something about the attack. Ask of a cut what its message *holds*, before asking which attack fails on it.
#
# **What this does not show.** One in-house ViT, one cut, a hundred turns where the paper takes 4,000, 64 pixels, ten
# classes. An ingredient that does not pay here may pay at full scale, where the prior is far better and the budget
# forty times as large. The [claims table](../book/claims.md) lists each claim with its verdict at this scale.
#
# ## Exercises
#
# **1. A fair chance.** "No Adam" keeps the rate that was chosen with Adam. Give the raw gradient its own: try three
# rates at block 12 on the two photos, `config.with_(smoothing="none", guidance_rate=...)`. Which photos should the
# choice be made on, to be able to report the result on these two?
#
# <details><summary>Solution</summary>
#
# On others: `data.pick("train", 10)` has training photos, if the data set is there.
#
# ```python
# for rate in (0.1, 0.2, 0.45):
#     print(rate, drag(Message(h, client), prior, config.with_(smoothing="none", guidance_rate=rate), seeds=seed))
# ```
#
# A spherical step uses the direction only, so the rate means the same with and without Adam. What differs is how
# steadily the directions add up, and a direction that jitters can bear a higher rate.
#
# </details>
#
# **2. Why paired?** Two variants differ by 0.01 on every one of 32 photos, and the photos' values have a standard
# deviation of 0.1. How wide is the interval of each mean, and how wide that of the paired difference?
#
# <details><summary>Solution</summary>
#
# Each mean has a standard error of $0.1/\sqrt{32} \approx 0.018$, so its 95 % interval is about $\pm 0.035$, and the
# two overlap almost entirely. The difference is 0.01 on every photo: its interval has no width at all.
#
# </details>
#
# **3. One seed.** All variants use the same seeds. What would change if each had its own, and what does it mean for
# "4 turns per step", which draws noise in another order?
#
# <details><summary>Solution</summary>
#
# With the same noise, part of the luck of the draw is common to both and cancels in the difference. With other noise
# it does not, and the interval gets wider. A variant that draws in another order has other noise after the first
# turn, so it never enjoys that cancellation: its interval is honest, only wider.
#
# </details>

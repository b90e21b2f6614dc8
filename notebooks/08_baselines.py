# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Baselines side by side
#
# DRAG is not the first attack that answers the question "which photo causes this message?". This chapter puts it beside
# its relatives, on the same two photos and for about the same time. They differ less in the question than in *where* they
# look for the answer: among all pixels, among the pictures that a network can draw, among the pictures of a GAN or of a
# diffusion model, or in a table of past examples that a network has learned.
#
# **Goals.** Know the five methods by what they minimise. Read off what each attacker must have. Find out why the method
# with the smallest IR distance, the best PSNR and the most similar picture need not be the same one. Learn to compare
# methods: equal time, same photos, paired differences.
#
# **You need** the [quickstart](00_quickstart.ipynb). The chapters on [guidance](04_guidance.ipynb) and
# [recurrence](05_recurrence.ipynb) explain DRAG itself.
#
# > **Cost:** CPU, about one minute (one short run of each method on two photos), 1.2 GB of memory. Measured: see the
# > [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how much time each method gets
seed = 0

# %% tags=["hide-input"]
import torch

from dragkit import (
    DragConfig,
    Message,
    ThreatModel,
    cosine_distance,
    data,
    load_client,
    zoo,
)
from dragkit.attacks.descent import step
from dragkit.attacks.glass import GlassConfig, Search, divergence
from dragkit.attacks.image_prior import ImagePriorConfig, SkipNetwork
from dragkit.attacks.inverse import inverse
from dragkit.attacks.rmle import RmleConfig, patch_prior, total_variation
from dragkit.measures import identification
from dragkit.methods import METHODS, Method, Setting
from dragkit.priors.inverse_network import InverseNetwork
from dragkit.priors.sampling import ddim_sample
from dragkit.zoo.knowledge import Knowledge
from draglab import tables
from draglab.chapters import ch08_baselines as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.studies.budget import available
from draglab.training.inverse import InverseTask

device = "cuda" if torch.cuda.is_available() else "cpu"
at = "block:9"
client = load_client(at=at, device=device)
known = Knowledge(zoo.CLIENT, at, zoo.PRIOR, device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)
with torch.no_grad():
    h = client(photos)

# %% [markdown]
# ## One contract
#
# Every attack of this library is called in the same way, `attack(message, prior, config, ...)`, and gives a
# `Reconstruction`. It receives the message with the client's half, and something that it knows about photos. It never
# receives the photo. So a method is a row of a table:

# %%
pages.source(Method)

# %% [markdown]
# Each module states what its attacker needs, and a run under a weaker threat model is refused. This table is made from
# those statements:

# %% tags=["hide-input"]
chapter.needs()

# %% [markdown]
# Two things that the table cannot say. "Public photos" means photos to train *for this client and this cut*. A GAN or a
# diffusion model was trained on photos as well, but by somebody else and for any victim: it is downloaded. And an inverse
# network wants pairs of photo and message, no gradient; somebody who may call the client as often as they like can make
# them without its weights.

# %%
if "inverse" in available(zoo.CLIENT, at):
    try:
        inverse(Message(h, client), known.network, threat=ThreatModel(weights=True))
    except PermissionError as refused:
        print(refused)

# %% [markdown]
# ## Inverse network: learn the answer
#
# Take public photos, send each through the client, and train a network $g$ to undo it (He et al., 2019):
#
# $$ \min_g\; \mathbb{E}\,\lVert g(f_c(x)) - x \rVert^2 . $$
#
# What does the best possible $g$ answer? Insert the **posterior mean** $\mathbb{E}[x \mid h]$. The cross term vanishes, and
#
# $$ \mathbb{E}\,\lVert g(h) - x\rVert^2 = \mathbb{E}\,\lVert g(h) - \mathbb{E}[x \mid h]\rVert^2
# + \mathbb{E}\,\lVert x - \mathbb{E}[x \mid h]\rVert^2 . $$
#
# Only the first term depends on $g$, so the best answer is the mean of all photos that fit the message. Where they
# disagree, their mean is a blur, and *no attack whatever* has a smaller squared error on average. Somebody who answers
# with one photo drawn at random from those that fit, as an ideal diffusion attack would, pays the second term twice: once
# for the truth and once for the draw. That is 3 dB less PSNR, for a sharper picture. A trained network only approaches the
# mean. The one below is a transformer with two layers; an attack with it is one pass.

# %%
pages.source(InverseNetwork.predict, InverseTask.loss)

# %% tags=["hide-input"]
chapter.inverse_network(at)

# %% [markdown]
# ## rMLE: search among pixels
#
# No learning, no knowledge of photos beyond "neighbouring pixels are alike" (*regularised maximum likelihood
# estimation*, He et al., 2019). Start from grey, and let Adam change the pixels:
#
# $$ \min_{x \in [0,1]^{n}}\; d(f_c(x), h) + 1.5\,\mathrm{TV}(x) + 0.001\,P(x) . $$
#
# $\mathrm{TV}$ is the mean squared difference of neighbouring pixels. $P$ is the same across the borders of patches only,
# because a transformer that cuts the photo into patches leaves seams there.

# %%
pages.source(total_variation, patch_prior)

# %% [markdown]
# This loop does the work, here and in the next two methods. Every photo has its own gradient norm and its own Adam
# moments, so that photos in a batch do not disturb one another:

# %%
pages.source(step)

# %% [markdown]
# ## LM: search among what a network can draw
#
# Let the picture be what a convolutional network $g_\theta$ makes of fixed random numbers $u$, and optimise the network's
# weights in the place of pixels (*likelihood maximisation*, Singh et al., 2021, with the deep image prior of arXiv
# 1711.10925):
#
# $$ \min_\theta\; d\big(f_c(g_\theta(u + \sigma\epsilon)), h\big) + 0.05\,\mathrm{TV}(g_\theta(u + \sigma\epsilon)) . $$
#
# The network has never seen a photo. Its *shape*, an hourglass with bypasses, finds smooth areas and edges easy and snow
# hard, and that is the prior. The noise $\sigma$ on the input is strong at first and gone at the end.

# %%
pages.source(SkipNetwork)

# %% [markdown]
# ## GLASS: search among the pictures of a GAN
#
# A GAN turns every $z \sim \mathcal{N}(0, I)$ into a picture, $x = G(w)$ with styles $w = M(z)$. GLASS (Li et al., 2023)
# searches twice. First for a $z$, from several random starts, with a penalty that keeps its numbers distributed like a
# normal draw; the start of smallest distance stays:
#
# $$ \min_z\; d\big(f_c(G(M(z))), h\big) + \mathrm{KL}\big(\mathcal{N}(\bar z, s_z^2)\,\big\|\,\mathcal{N}(0, 1)\big) . $$
#
# Then each layer of the generator gets a style of its own (the space W+), which reaches pictures that no $z$ gives, with
# noise on the styles that fades out. GLASS++ takes its first styles from a trained encoder, and so needs public photos.

# %%
pages.source(divergence, Search.descend_z, Search.render_w_plus)

# %% tags=["hide-input"]
chapter.generator()

# %% [markdown]
# ## DRAG: search among the pictures of a diffusion model
#
# DRAG has no single objective that it minimises. It samples from the prior, and in every turn takes the gradient of
#
# $$ d\big(f_c(D(\hat x_0(z_t))), h\big) + 0.01\,\lVert 2 D(\hat x_0(z_t)) - 1\rVert^2 / n $$
#
# at the noisy latent, to bend the next step ([guidance](04_guidance.ipynb)). This is what it measures:

# %%
pages.source(Message.measure)

# %% [markdown]
# ## Equal time
#
# What is a fair comparison? Equal iterations are not: an iteration of rMLE runs the client, a turn of DRAG runs noise
# predictor, decoder and client. So we give equal *seconds*. The recorded runs at the end of this chapter time the methods
# first and derive the iterations. Here the numbers are fixed, so that the page comes out the same everywhere, with the
# ratios that we found on a CPU: 1 turn of DRAG, 2 iterations of LM, 4 of rMLE. The inverse network needs one pass, and
# had its time in training.
#
# DRAG runs with the guidance rate 0.5, which a search on *training* photos found good for so few turns; the others have
# their published settings. That is an advantage for DRAG, and a reason to read this as an illustration.

# %%
turns = {"ci": 40, "laptop": 160, "colab": 400, "paper": 1000}[budget]
few_turns = DragConfig(num_steps=turns, recurrence=1, guidance_rate=0.5)
settings = {
    "inverse": None,
    "rmle": RmleConfig(iterations=4 * turns),
    "lm": ImagePriorConfig.fast().with_(iterations=2 * turns),
    "glass": GlassConfig.small(4 * turns),
    "glass++": GlassConfig.small_plus(4 * turns),
    "drag": few_turns if budget == "ci" else DragConfig.small(turns),
}
if budget == "paper":
    settings |= {"rmle": RmleConfig.paper(), "lm": ImagePriorConfig.paper()}
    settings |= {"glass": GlassConfig.paper(), "glass++": GlassConfig.paper_plus()}
    settings |= {"drag": DragConfig.paper()}

# %%
message = Message(h, client)
here = [name for name in settings if name in available(zoo.CLIENT, at)]
results = {
    name: METHODS[name].run(message, known, Setting(settings[name], seed))
    for name in here
}

# %% tags=["hide-input"]
chapter.at_hand(here, list(settings))

# %% [markdown]
# Two neighbours as always: what the prior draws without the message, and the decoder's round trip of the photo. A flat
# grey picture is the floor of the table.

# %% tags=["hide-input"]
runs = {chapter.label(name, settings[name]): run for name, run in results.items()}
with torch.no_grad():
    references = {
        "flat grey": torch.full_like(photos, 0.45),
        "prior only": ddim_sample(
            known.diffusion, range(seed, seed + len(photos)), 40, eta=1.0
        ),
        "decoder ceiling": known.diffusion.decode(known.diffusion.encode(photos)).clamp(
            0, 1
        ),
    }
    distance = {label: run.distance for label, run in runs.items()}
    distance |= {
        name: cosine_distance(client.tokens(client(x)), client.tokens(h))
        for name, x in references.items()
    }
images = {label: run.images for label, run in runs.items()} | references
scores = {label: tables.score(x, photos) for label, x in images.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of two pictures: the photos, then the reconstructions of each method from the same two messages, then the decoder's round trip", "classes": "dark-light"}, "figure": {"caption": "The same two messages, for about the same time. Under each picture: MS-SSIM to the photo and IR distance to the message.", "name": "fig-baselines"}}
for name, run in results.items():
    key = name.replace("+", "p")
    record(f"distance_{key}", run.distance, atol=0.06)
    record(
        f"ms_ssim_{key}",
        scores[chapter.label(name, settings[name])]["ms_ssim"],
        atol=0.1,
    )
    record_panel(key, run.images, min_ssim=0.4)
shown = {label: images[label] for label in (*runs, "decoder ceiling")}
under = {
    label: pages.captions(scores[label]["ms_ssim"], distance[label].tolist())
    for label in shown
}
plots.image_rows({"photo": photos, **shown}, names, under)

# %% tags=["hide-input"]
chapter.compared(runs, distance, scores)

# %% [markdown]
# Take the seconds for what they are, a single timing on a machine that may be doing other things. IR distance and
# ST-LPIPS are better when low, MS-SSIM and PSNR when high.
#
# Look at the pictures as well, because each method fails in its own way. The inverse network smooths, and leaves the seams of
# its patches; rMLE strews coloured grain; LM weaves; DRAG paints confidently, with colours of its own.
#
# ## The trap
#
# Of all these columns the attacker sees one: the IR distance. Is it a guide to the others?


# %% tags=["hide-input"]
chapter.trap(list(runs), distance, scores)

# %% [markdown]
# How can a picture that is further from the photo be nearer to the message? The client maps many pictures to nearly one
# message. Whoever may change every pixel finds some of them, with patterns that the client does not mind and we do. A
# method that is confined to plausible pictures cannot go there, and is stopped by the limits of its decoder. So the IR
# distance compares results *within* a method, with the same freedom. Between methods it says how much freedom they had.
#
# The course of the distance shows the same. Each curve is a method's own time, from its first iteration to its last:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Falling curves of the IR distance against the share of the budget, one per iterative method, with horizontal lines for prior-only pictures and the decoder ceiling, on a logarithmic scale", "classes": "dark-light"}, "figure": {"caption": "IR distance of the estimate against the share of each method's iterations. Means over two photos.", "name": "fig-baselines-traces"}}
plots.curves(
    chapter.courses(runs, 40),
    [(i + 1) / 40 for i in range(40)],
    xlabel="share of the iterations",
    ylabel="IR distance",
    levels={
        name: chapter.mean(distance[name]) for name in ("prior only", "decoder ceiling")
    },
    log=True,
)

# %% [markdown]
# DRAG's curve is that of Tweedie's *estimate*, which is a blur at first by construction. LM has noise on its network's input
# for seven eighths of the way, so the picture that it returns is made in the last eighth. The inverse network has no curve:
# it answers once, and its answer is not compared with the message at all.
#
# ## From two photos to a result
#
# `dragkit sweep baselines` runs every method at five depths, on the same validation photos, for equal seconds, with
# settings that were chosen on training photos. Two clients: the small transformer of this chapter, and a published ViT-S
# with 112 pixels, which is much harder to invert.

# %% tags=["hide-input"]
comparisons = {
    "in-house ViT": study("baselines-vit"),
    "ViT-S": study("baselines-focus"),
}
chapter.origins(comparisons)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of ST-LPIPS against the block at which the in-house transformer is cut, one per method with a band, and horizontal lines for prior only and decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer) against depth, in-house ViT. Mean and 95 % interval, equal seconds; DRAG (small, k=1).", "name": "fig-baselines-vit"}}
comparisons["in-house ViT"].show(chapter.over_depth, "st_lpips")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of PSNR against the block at which the in-house transformer is cut, one per method with a band, and horizontal lines for prior only and decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "Recorded: PSNR to the photo (higher is closer) against depth, in-house ViT. Mean and 95 % interval, equal seconds; DRAG (small, k=1).", "name": "fig-baselines-vit-psnr"}}
comparisons["in-house ViT"].show(chapter.over_depth, "psnr")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of ST-LPIPS against the block at which the published ViT-S is cut, one per method with a band, and horizontal lines for prior only and decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer) against depth, published ViT-S. Mean and 95 % interval, equal seconds; DRAG (small, k=1).", "name": "fig-baselines-focus"}}
comparisons["ViT-S"].show(chapter.over_depth, "st_lpips")

# %% [markdown]
# The decoder ceiling binds the methods that draw with the prior's decoder. Pixel search and the inverse network are free of
# it, and at shallow cuts may pass it. All numbers at the deepest cut of the in-house client, with the references:


# %% tags=["hide-input"]
comparisons["in-house ViT"].show(chapter.deepest)

# %% [markdown]
# ### Paired differences
#
# Photos differ more than methods do: an easy photo is easy for all. So we compare photo by photo, DRAG minus rival, and
# give the interval of the *mean difference*. A negative difference means that DRAG is closer. The verdict is computed:
# an interval that holds 0 decides nothing. With so many intervals at 95 %, expect about one in twenty to be wrong.


# %% tags=["hide-input"]
chapter.duels(comparisons)

# %% tags=["hide-input"]
chapter.victories(comparisons)

# %% [markdown]
# ### The trap, on many photos
#
# Which method comes first, by each measure, at each depth? If the attacker's number were a judge between methods, the
# first two columns would agree.

# %% tags=["hide-input"]
chapter.podium(comparisons)

# %% tags=["hide-input"]
chapter.judge(comparisons)

# %% [markdown]
# ## The budgets of the publications
#
# Seconds are what a reader of this page can spend. The publications spend hours: 4,000 turns for DRAG, 20,000 iterations for
# rMLE and LM, twice 10,000 for GLASS. `dragkit sweep published` gives every method what its authors gave it, with their
# settings, on eight photos of the same client. DRAG runs a second time with the settings of this library, for a quarter of
# the turns. What it costs is counted in calls of the client (the attacks shared a GPU, so their seconds mean little).

# %% tags=["hide-input"]
published = study("published")
published.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves of ST-LPIPS against the block at which the in-house transformer is cut, one per method with its published budget, with bands and horizontal lines for prior only and decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer) against depth, published settings and budgets, eight photos. Mean and 95 % interval.", "name": "fig-published"}}
published.show(chapter.over_depth, "st_lpips")

# %% tags=["hide-input"]
published.show(chapter.deepest, calls=True)

# %% tags=["hide-input"]
published.show(chapter.published_duels)

# %% tags=["hide-input"]
published.show(chapter.orders, comparisons["in-house ViT"])

# %% [markdown]
# Eight photos decide less than thirty-two, so mind the intervals. And mind what is compared: the published settings of DRAG
# were chosen for a prior with sixteen times as many numbers in its latents. Is it the settings that do not fit, or the time?

# %% tags=["hide-input"]
published.show(chapter.settings_or_time)

# %% [markdown]
# ### Does a prior only buy time?
#
# For seconds, LM is far behind; for twenty thousand iterations it is not. `dragkit sweep patience` looks at what lies
# between: DRAG and LM, both with the settings of this library, for the time of 80 to 4,000 turns of DRAG.

# %% tags=["hide-input"]
patience = study("patience")
patience.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curves with bands over the budget on a logarithmic axis: mean ST-LPIPS of DRAG and LM, and a horizontal line for the decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer) against the budget in turns of DRAG (small); LM has the same seconds. Means and 95 % intervals, eight photos, block 12.", "name": "fig-patience"}}
patience.show(chapter.over_budgets)

# %% tags=["hide-input"]
patience.show(chapter.patience_duels)

# %% tags=["hide-input"]
patience.show(chapter.overtaken)

# %% [markdown]
# Knowing what photos look like decides most where the search has hardly begun. The longer it goes on, the less it matters:
# the message of 64 × 64 pixels still determines the photo at the deepest cut ([chapter 7](07_ablations.ipynb) measures how
# well), and what a message determines, a patient search finds without knowing photos. At this scale a prior buys *time*. The
# last columns show both attackers nearer to the message than the photo's own round trip is: in the end it is not the
# message that limits them, and their own number no longer tells them anything. The attacks of the paper meet larger models,
# whose deep messages leave more to be guessed; whether patience could replace a prior there is not measured here.
#
# ## Without an autoencoder
#
# DRAG does not need latents. The published code has a variant whose diffusion model works on pixels, and so has this
# library: the same `drag`, with a `PixelPrior`. There is no decoder to limit the detail, and none to help: each turn
# works on 12,288 numbers in the place of 1,024. `dragkit sweep pixels` compares the two on the in-house client, with the
# same settings but for the guidance rate, which it chooses on training photos.
#
# The attack can be no better than its prior, so look at that first: pictures that both priors draw without any message.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of eight pictures drawn without a message: by the latent prior, and by the pixel prior", "classes": "dark-light"}, "figure": {"caption": "What the two priors draw without a message (DDIM, 25 steps).", "name": "fig-two-priors"}}
eight = range(seed, seed + 8)
drawn = {
    "latent prior": ddim_sample(known.diffusion, eight, 25),
    "pixel prior": ddim_sample(known.pixels, eight, 25),
}
record_panel("two_priors", torch.cat(list(drawn.values())), min_ssim=0.4)
plots.image_rows(drawn)

# %% [markdown]
# Then the attack with each of them:

# %% tags=["hide-input"]
pixels = study("pixels")
pixels.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per prior and block, and for the reference rows: mean ST-LPIPS to the photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer), mean and 95 % interval: DRAG (small, k=1) with the latent prior, with the pixel prior and as many turns, and for the same time.", "name": "fig-pixels"}}
pixels.intervals("st_lpips")

# %% tags=["hide-input"]
pixels.show(chapter.pixel_rates)

# %% [markdown]
# This compares two *models* as much as two spaces: the claims say how many photos each has seen in training. A pixel prior
# for 64 × 64 works on twelve times as many numbers per photo, which is the reason why latent diffusion exists.
#
# ## Would it find the photo?
#
# A picture may look unlike the photo and still give it away: the attacker may have a gallery of candidates (profile
# pictures, say) and only wants to know *which*. So we put the reconstruction into a gallery, order all photos by their
# distance to it in some embedding, and note the **rank** of the truth. Rank 1 means that it was found.

# %%
pages.source(identification.pairwise_distance, identification.retrieval_ranks)

# %% [markdown]
# Here is the calculation in its smallest form: the four demonstration photos as a gallery, and the attacker's own
# embedding, the IR. A guess that knows nothing has rank 2.5 on average.

# %%
everyone = torch.stack(list(demo.values())).to(device)
truth = torch.tensor([list(demo).index(name) for name in names])
with torch.no_grad():
    gallery = client.tokens(client(everyone))
    queries = {label: client.tokens(client(x)) for label, x in images.items()}
ranks = {
    label: identification.retrieval_ranks(query, gallery, truth).tolist()
    for label, query in queries.items()
}

# %% tags=["hide-input"]
pages.table(
    ["rank among four photos", *names], [[label, *row] for label, row in ranks.items()]
)

# %% [markdown]
# Four photos as different as these are no test. The recorded one has 1,000 validation photos without near-duplicates,
# and an embedding of a network that is *not* the victim.

# %% tags=["hide-input"]
retrieval = study("retrieval")
retrieval.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per method: share of photos found at first place among a thousand", "classes": "dark-light"}, "figure": {"caption": "Recorded: share of photos whose reconstruction is nearest to the right one of 1,000 (higher leaks more), with 95 % interval.", "name": "fig-retrieval"}}
retrieval.show(chapter.retrieval)

# %% tags=["hide-input"]
retrieval.show(chapter.easiest)

# %% [markdown]
# ## Summary
#
# - All attacks here answer the same question and differ in where they look: pixels (rMLE), pictures that an untrained
#   network draws easily (LM), a GAN (GLASS), a diffusion model (DRAG), or a function learned from examples (inverse network).
# - The posterior mean is the best answer in squared error, and a blur. PSNR rewards it.
# - The IR distance judges within a method. Between methods it measures freedom as much as success.
# - Compare at equal seconds, on the same photos, with paired differences, and beside prior only and decoder ceiling.
# - The inverse network and GLASS++ need photos to train on for this very client and cut; the others do not.
#
# **What stops it?** Nothing stops the whole family at once. What is aimed at one member may leave the next untouched:
# a client that hides gradients stops the searches and not the inverse network, which needs none. So a defence has to be
# tried against all of them, each adapted to it; the chapters on defences do that.
#
# **What this does not show.** Two photos, one seed and one cut in the live part. Inverse network, prior and client were
# trained on the same ten classes of photos, which helps the first two. 64 × 64 pixels leave little room for the fine
# detail in which a large diffusion model would shine. The budgets are seconds to minutes; the published ones are hours,
# and pixel search in particular goes on improving for a long time.
#
# ## Exercises
#
# **1. Deeper, shallower.** Set `at` to `block:0` or `block:12` and run all cells again. Which method minds the depth most?
#
# <details><summary>Solution</summary>
#
# At `block:0` each token depends on its own patch only, and the problem is nearly linear: even pixel search is close to
# perfect when it is given time. With depth the message leaves more open, and a method has to fill in what it says about
# photos: "neighbours are alike" for rMLE, much more for a trained prior. The recorded curves above show it on more photos.
#
# </details>
#
# **2. Average the samples.** Attack the first photo with eight seeds, `drag(Message(h[:1].expand(8, -1, -1), client), ...)`, and average the
# eight pictures. What happens to PSNR, and to ST-LPIPS? What does this have to do with the inverse network?
#
# <details><summary>Solution</summary>
#
# ```python
# from dragkit import metrics
#
# eight_times = Message(h[:1].expand(8, -1, -1), client)
# many = METHODS["drag"].run(eight_times, known, Setting(settings["drag"], seed)).images
# average = many.mean(0, keepdim=True)
# for x in (many, average):
#     truth = photos[:1].expand_as(x)
#     print(metrics.psnr(x, truth).mean(), metrics.st_lpips(x, truth).mean())
# ```
#
# The squared error of the mean is the mean squared error *minus* the variance of the samples, exactly, so PSNR cannot
# fall. The average of many draws approaches the mean of what the attack believes, which is what the inverse network was
# trained to say at once. The details in which the draws differ are gone, and the picture gets softer.
#
# </details>
#
# **3. More time for pixels.** Give rMLE ten times the iterations. Do IR distance and ST-LPIPS move together?
#
# <details><summary>Solution</summary>
#
# ```python
# from dragkit import metrics
#
# for factor in (1, 10):
#     config = RmleConfig(iterations=4 * turns * factor)
#     run = METHODS["rmle"].run(message, known, Setting(config, seed))
#     print(run.distance.mean(), metrics.st_lpips(run.images, photos).mean())
# ```
#
# The objective falls, and with it what the attacker sees. Look at both numbers before you conclude that the picture got
# better; at this cut rMLE is helped by more time, and at deep cuts of a large client the published 20,000 iterations still
# leave it far from the photo.
#
# </details>

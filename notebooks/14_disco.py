# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DISCO: prune channels
#
# DISCO (Singh et al., 2021, arXiv 2012.11025) puts a small network on the phone, the *pruner*. It looks at each message
# and decides which channels the server should not get. The pruner is trained in a contest: an adversary learns to rebuild
# photos from what is sent, and the pruner learns to make it fail, while the server must still be right.
#
# **Goals.** See what DISCO really sends. Find the distance that does not notice it, and what is needed to make it notice.
# Tell soft masks from hard ones, learned ones from fixed and random ones. Learn why the adversary of the training is a bad
# judge. Read the measured results.
#
# **You need** the [quickstart](00_quickstart.ipynb) and the [noise chapter](11_noise.ipynb), which says how defences are
# judged in this book.
#
# > **Cost:** CPU, less than a minute (a few short attacks on two photos), 1.2 GB of memory. All else is recorded.
# > Measured: see the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # how many turns the live attacks may take
seed = 0

# %% tags=["hide-input"]
import torch

from dragkit import (
    DragConfig,
    Message,
    cosine_distance,
    data,
    defend,
    drag,
    hear,
    make_defence,
    metrics,
    zoo,
)
from dragkit.adaptive.distances import LoudChannels, channel_cosine_distance
from dragkit.defenses.disco import Mask, Pruner, PrunerShape, channel_mask, load_pruner
from draglab.chapters import ch14_disco as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study
from draglab.studies import defence_study
from draglab.studies.disco import SHIPPED
from draglab.training.disco import DiscoRecipe, DiscoTask, reverse

device = "cuda" if torch.cuda.is_available() else "cpu"
at = defence_study.AT
trained = zoo.available(SHIPPED)
client = zoo.load_client(SHIPPED if trained else zoo.CLIENT, at, device=device)
demo = data.demo_images(64)
names = ["astronaut", "coffee"]
photos = torch.stack([demo[name] for name in names]).to(device)
with torch.no_grad():
    h = client(photos)
tokens = client.tokens(h)
chapter.client_in_words(trained)

# %% [markdown]
# ## What is sent
#
# A message is a table, one row per token and one column per **channel**; here 65 tokens and 128 channels. The pruner $p$
# gives every channel a score. Let $\tau$ be the score below which a share $r$ of them lies. Then channel $c$ of every
# token is multiplied by the same gain:
#
# $$ h'_{tc} = s_c\, h_{tc}, \qquad s_c = \mathrm{sigmoid}\!\left(\frac{p_c(h) - \tau}{0.03}\right) . $$

# %%
pages.source(channel_mask, Mask.apply)

# %% [markdown]
# Read it closely. The mask is called pruning, but a sigmoid is never 0. A channel is not removed, it is *turned down*.
# This is how the released code trains, and how it sends at inference. A gain of $10^{-13}$ is large trouble for anybody who
# compares messages number by number, and none for somebody who remembers that a volume control is not an eraser.
#
# There is a limit to that. Numbers in a computer are not real numbers: where a score lies more than 2.7 below $\tau$, the
# sigmoid of float32 is 0 after all, and then the channel *is* gone. So it depends on how far apart the pruner puts its
# scores whether a soft mask is soft. One has to look.
#
# Here are the gains for the two photos, from the loudest channel to the quietest:

# %% tags=["hide-input"]
if trained:
    pruner = load_pruner(client)
    mask = pruner.shape.mask
    with torch.no_grad():
        scores = pruner(tokens)
else:
    mask = Mask()
    pruner = Pruner(
        PrunerShape(tokens.shape[2], client.layout.prefix_tokens, mask=mask)
    )
    scores = torch.randn(
        len(tokens), tokens.shape[2], generator=torch.Generator().manual_seed(seed)
    ).to(device)

# %%
gains = mask.gains(scores)
shown = mask.apply(tokens, gains, pruner)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two falling curves, one per photo: the gains of the 128 channels from the largest to the smallest, on a logarithmic scale", "classes": "dark-light"}, "figure": {"caption": "Gains of the 128 channels, sorted, for two photos. A gain that is 0 in float32 is drawn at the lower edge.", "name": "fig-disco-gains"}}
sorted_gains = gains.sort(1, descending=True).values.clamp_min(1e-38)
plots.curves(
    dict(zip(names, sorted_gains, strict=True)),
    xlabel="channel, by its gain",
    ylabel="gain",
    levels={"half": 0.5},
    log=True,
)

# %% tags=["hide-input"]
chapter.gains_in_words(gains)

# %% [markdown]
# ## A distance that does not notice
#
# DRAG compares messages **token by token**: for each row, the cosine between the estimate's 128 numbers and the received
# ones. Gains distort every row. Now compare **channel by channel**: for each column, the cosine over the 65 tokens. A
# column is multiplied by one number, and a cosine does not change when one side is multiplied by a positive number:
#
# $$ \cos(s_c\, h_{\cdot c},\, \hat h_{\cdot c}) = \cos(h_{\cdot c},\, \hat h_{\cdot c}) \quad\text{for every } s_c > 0 . $$
#
# The attacker does not have to estimate the mask. They do not even have to know that it is there.

# %%
pages.source(channel_cosine_distance, LoudChannels)

# %% [markdown]
# A test: the photo's own message against what arrives. A distance that the defence cannot disturb is 0 here. The rows go
# from the soft mask to harder treatment. "Half precision" and "8 bits" are ways to send it: numbers too small for the
# format become 0. A hard mask sends zeros on purpose.
#
# The second distance is what other codes do against DISCO: guess which channels were turned down from their energy, and
# leave them out.

# %%
pruned = channel_mask(scores, mask.ratio, mask.temperature, hard=True)
step = shown.abs().amax((1, 2), keepdim=True) / 127
arrivals = {
    "not masked": tokens,
    "soft mask": shown,
    "soft mask, half precision": shown.half().to(tokens.dtype),
    "soft mask, 8 bits": (shown / step).round() * step,
    "hard mask": mask.apply(tokens, pruned, pruner),
}
distances = {
    "token by token": cosine_distance,
    "loud channels": LoudChannels(),
    "channel by channel": channel_cosine_distance,
}
measured = {
    label: {name: float(d(tokens, arrived).mean()) for name, d in distances.items()}
    for label, arrived in arrivals.items()
}

# %% tags=["hide-input"]
silent = chapter.silent_channels(arrivals)
record("soft_token_by_token", measured["soft mask"]["token by token"], atol=0.05)
record(
    "soft_channel_by_channel", measured["soft mask"]["channel by channel"], atol=1e-4
)
chapter.arrivals_table(measured, silent)

# %% tags=["hide-input"]
chapter.arrivals_in_words(measured, silent)

# %% [markdown]
# Channels that are 0 in the received message are skipped: whatever they held is gone, and the attacker sees that it is.
# Three things destroy something: a zero by a hard mask, a zero by underflow (of the sigmoid, or of the format in which the
# message is sent), and coarse rounding. Only the first is a decision that DISCO makes. Otherwise it is an accident of the
# number format, and a defender who relies on it should make it a decision.
#
# ## How it is trained
#
# One step updates all parts (this is the form of arXiv 2509.11724; the authors take turns between optimisers). The
# adversary $a$ sees messages with a stopped gradient, so it does not train the client. The operator $R$ turns a gradient's
# sign on its way to the pruner:
#
# $$ \min\; \mathrm{MSE}\big(a(R(s) \odot \mathrm{sg}[h]),\, x\big) + \rho\, \mathrm{CE}\big(g(s \odot h),\, y\big) . $$

# %%
pages.source(reverse, DiscoTask.losses)

# %% [markdown]
# Each ingredient is a switch, so that each can be taken out:

# %%
pages.source(DiscoRecipe)

# %% [markdown]
# ### The adversary is a bad judge
#
# After training, the adversary's error is at hand, and papers report it as the privacy that was reached. It says how
# well *this* adversary did, against a pruner that was trained to beat exactly this one. It was always a step behind,
# and it is small. A real attacker waits until the training is over, freezes the defence, and trains a **new** inverse
# network on defended messages of public photos. The pruner cannot move any more.

# %% tags=["hide-input"]
recorded = study("defence_disco")
chapter.judges_table(recorded)

# %% tags=["hide-input"]
chapter.judges_in_words(recorded)

# %% [markdown]
# Take the comparison as it is: the new network also had more training. That is the point, an attacker may train as long
# as they like.
#
# ## Two photos
#
# The same short attack on the client that was trained with DISCO: without its mask; with the mask against an attacker who
# does not know of it; against one who compares channel by channel; and the same reply to a hard mask. A reply is a
# function from what was received to what the attack is given, and it is refused where it does not suit:

# %%
pages.source(hear)

# %%
prior = zoo.load_prior(device=device)
turns = {"ci": 40, "laptop": 100, "colab": 400, "paper": 1000}[budget]
config = DragConfig.small(turns)
plan = {
    "soft mask": ("disco", ""),
    "soft mask, channel by channel": ("disco", "channelwise"),
    "hard mask, channel by channel": ("disco-hard", "channelwise"),
}
runs = {"no mask": drag(Message(h, client), prior, config, seeds=seed)}
for label, (recipe, reply) in plan.items() if trained else ():
    defence = make_defence(recipe, client)
    received = defend(defence, h, seed)
    message, threat = hear(reply, received, defence, client)
    runs[label] = drag(message, prior, config, seeds=seed, threat=threat)

# %% tags=["hide-input"]
similarity = {label: metrics.ms_ssim(run.images, photos) for label, run in runs.items()}
for label, run in runs.items():
    key = label.replace(",", "").replace(" ", "_")
    record(f"ms_ssim_{key}", similarity[label], atol=0.2)
    record_panel(key, run.images, min_ssim=0.3)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of two pictures: the photos, and reconstructions without the mask, from the soft mask without and with the channel-wise distance, and from a hard mask", "classes": "dark-light"}, "figure": {"caption": "The same short attack on the client trained with DISCO. Under each picture: MS-SSIM to the photo.", "name": "fig-disco-photos"}}
plots.image_rows(
    {"photo": photos, **{label: run.images for label, run in runs.items()}},
    names,
    {label: [f"{s:.2f}" for s in similarity[label].tolist()] for label in runs},
)

# %% tags=["hide-input"]
chapter.attacks_in_words(similarity)

# %% [markdown]
# "Does not notice the mask" and "as good as without a mask" are two things. The channel-wise distance weighs every
# channel alike, also those that hardly vary from photo to photo, and it takes no account of how large a number is. It is
# another objective for the search, and may be a better or a worse one than DRAG's own. Against the soft mask it has its
# minimum where the photo is, and that is what the token-wise one has lost.
#
# ## Measured
#
# `dragkit sweep defence_disco` tries five masks on the shipped client, each against three attackers: one who is unaware,
# one who leaves out quiet channels, one who compares channel by channel. `disco-static` uses the mean scores over training
# photos for all messages. `disco-random` draws a mask for each message, and is the control: whatever the pruner learned,
# it has to be better than chance. Other rows are clients that were trained with one switch turned.

# %% tags=["hide-input"]
recorded.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per mask and attacker, and for the reference rows: mean MS-SSIM to the photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM of the reconstruction to the photo (higher leaks more), mean and 95 % interval, by mask and attacker.", "name": "fig-disco-msssim"}}
recorded.intervals("ms_ssim")

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per mask and attacker, and for the reference rows: mean ST-LPIPS to the photo", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower leaks more), mean and 95 % interval, by mask and attacker.", "name": "fig-disco-lpips"}}
recorded.intervals("st_lpips")

# %% tags=["hide-input"]
recorded.show(chapter.replies_table)

# %% [markdown]
# Next, what each mask costs and what it stops. The attacker chooses their reply: for each mask we show the one of lowest
# ST-LPIPS. The last column compares with the random mask, each against its strongest attacker.

# %% tags=["hide-input"]
recorded.show(chapter.masks_table)

# %% [markdown]
# The rows at the end are clients of their own: the same training with one ingredient changed. Each beside the one with
# all ingredients, both against their strongest DRAG attacker:

# %% tags=["hide-input"]
recorded.show(chapter.retrainings_table)

# %% tags=["hide-input"]
recorded.show(chapter.findings)

# %% tags=["hide-input"]
for claim in ("disco-insufficient", "disco-channelwise-cosine"):
    print(pages.verdict(claim))

# %% [markdown]
# ## Summary
#
# - DISCO's soft mask is a gain per channel that all tokens share. In exact arithmetic it removes nothing; in float32 it
#   removes the channels whose gain underflows, and one has to count them.
# - A cosine over the tokens of each channel does not notice such gains, whatever they are and whether or not they are known.
# - What destroys information is a zero, by a hard mask or by underflow, or a transport too coarse for small numbers. Then
#   the silent channels are gone, and the others are as they were.
# - A learned mask is compared with a random one, and a mask for each message with one for all.
# - The adversary that a defence was trained against is no judge of it. Freeze the defence, and train a new one.
#
# **What stops it?** The claims above say whether DISCO stops DRAG here. Whoever wants pruning to mean something sends a hard
# mask, or better, does not compute the channels at all, and asks how few channels the task needs.
#
# **What this does not show.** The published pruner is as large as the server's half; ours is two layers on pooled tokens,
# and was trained for some hundred steps from a finished client. A stronger pruner may choose better channels. That the
# soft mask cancels has nothing to do with the pruner's quality: it holds for any gains above 0. How many gains are 0 does
# depend on it. We sent float32; a half-precision message would lose more.
#
# ## Exercises
#
# **1. Gains that are not shared.** A defender gives every *token* its own gain too, $h'_{tc} = u_t s_c h_{tc}$. Which of
# the three distances still does not notice? Is there one that would?
#
# <details><summary>Solution</summary>
#
# The token-wise cosine does not notice $u$, the channel-wise one does not notice $s$, and neither ignores both. The
# attacker can remove both from either side before they compare: divide rows and columns in turn by their norms until all
# are 1. Where nothing is zero this converges, and the result is the same with and without gains.
#
# </details>
#
# **2. Fill with the mean.** `Mask(fill="mean")` puts the mean over training photos where a channel was turned down. Run the
# test above for it: `Mask(fill="mean").apply(tokens, gains, pruner)`. What does the channel-wise distance say, and what
# could an attacker do?
#
# <details><summary>Solution</summary>
#
# Now $h' = s h + (1 - s) m$, and the cosine of a column does change, because the mean pulls it. The mean is public, so
# an attacker may compare deviations from the column's mean over the tokens. For patch tokens, which share one $m$, that
# deviation is $s\,(h - \bar h)$: a gain again.
#
# ```python
# filled = Mask(fill="mean").apply(tokens, gains, pruner)[:, 1:]
# plain = tokens[:, 1:]
# print(channel_cosine_distance(plain, filled))
# print(channel_cosine_distance(plain - plain.mean(1, keepdim=True), filled - filled.mean(1, keepdim=True)))
# ```
#
# </details>
#
# **3. How small is too small?** Multiply a channel by $10^{-k}$ and send it in half precision. At which $k$ does the
# channel-wise distance begin to see it, and why is it later for float32?
#
# <details><summary>Solution</summary>
#
# ```python
# for k in range(0, 12, 2):
#     print(k, channel_cosine_distance(tokens, (tokens * 10.0**-k).half().float()))
# ```
#
# Half precision has full accuracy down to $6 \cdot 10^{-5}$ and is 0 below $3 \cdot 10^{-8}$. Between them digits get
# lost one by one. The smallest normal number of float32 is near $10^{-38}$.
#
# </details>

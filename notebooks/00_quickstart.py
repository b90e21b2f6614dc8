# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One photo, one message, one reconstruction
#
# A phone takes a photo. It does not send the photo anywhere: it runs the first nine blocks of a vision transformer and sends
# their output to a server, which finishes the job. Here you sit on that server, and you would like to see the photo.
#
# **Goals.** See the whole attack once, from photo to message to picture, and learn to read the numbers that come with it.
#
# **You need** to know what a neural network layer is. Everything else comes in the chapters after this one.
#
# > **Cost:** CPU, about one minute (two photos, 80 turns of the attack), 1.2 GB of memory. The measured time and memory of every
# > chapter are in the [appendix](../book/timings.md).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "dragkit @ git+https://github.com/dragkit/dragkit"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% tags=["parameters"]
budget = "ci"  # "ci", "laptop", "colab" or "paper": how many turns the attack may take
seed = 0
photo = ""  # path of a photo of your own, added to the two demonstration photos

# %% tags=["hide-input"]
import torch

from dragkit import (
    DragConfig,
    Message,
    cosine_distance,
    drag,
    load_client,
    load_prior,
    metrics,
)
from dragkit.priors.sampling import ddim_sample
from draglab.chapters import ch00_quickstart as chapter
from draglab.pages import pages, plots
from draglab.pages.record import record, record_panel
from draglab.pages.study import study

device = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## On the phone
#
# `load_client` gives a small vision transformer, cut in two after block 9. Calling it runs the phone's half only: from photo $x$
# to **intermediate representation** $h = f_c(x)$, IR for short. That is the message.

# %%
client = load_client(at="block:9", device=device)
names, photos = chapter.photos(64, own=photo)
photos = photos.to(device)

with torch.no_grad():
    h = client(photos)

# %% tags=["hide-input"]
record("bytes_per_photo", client.info()["bytes_per_query"], rtol=0, unit="bytes")
chapter.message_in_words(client, h[0])

# %% [markdown]
# No pixel is in the message. Whether the *picture* is in it, is the question.
#
# ## On the server
#
# What does the attacker have? Three things. The message $h$. The weights of the phone's half, because phones download them. And an idea
# of what photos look like in general: a **diffusion prior**, which has never seen these photos. `drag` receives exactly that, and the
# photo is not among its arguments.

# %%
prior = load_prior(device=device)
config = {
    "ci": DragConfig.small(80),  # DRAG with settings chosen for this small prior
    "laptop": DragConfig.small(400),
    "colab": DragConfig.small(400),
    "paper": DragConfig.paper(),
}[budget]
film = chapter.Film(prior)  # keeps sixteen pictures of the attack at work

reconstruction = drag(Message(h, client), prior, config, seeds=seed, callback=film)

# %% tags=["hide-input"]
chapter.attack_in_words(reconstruction, config, device)

# %% [markdown]
# Move the slider, with the mouse or with the arrow keys: it shows what the attacker believes the finished pictures to be, turn by
# turn.

# %% tags=["hide-input"]
film.stepper("The attacker's estimate of the photos")

# %% [markdown]
# ## Compare
#
# A picture that *looks* like a photo proves nothing: the prior draws such pictures without any message. So a reconstruction never
# stands alone in this book. Its neighbours are
#
# - **prior only**: the same sampler with the same seed and guidance off. What you get for not reading the message;
# - **decoder ceiling**: the photo itself, encoded and decoded by the prior's autoencoder. The attack draws with this decoder, and this
#   is about the best that it can draw.

# %%
prior_only = ddim_sample(
    prior,
    range(seed, seed + len(photos)),
    config.num_steps,
    eta=config.eta,
)
with torch.no_grad():
    ceiling = prior.decode(prior.encode(photos)).clamp(0, 1)

pictures = {
    "photo": photos,
    "prior only": prior_only,
    "rebuilt from h": reconstruction.images,
    "decoder ceiling": ceiling,
}
similarity = {kind: metrics.ms_ssim(shown, photos) for kind, shown in pictures.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows, one for each photo, of four pictures: the photo, what the prior draws without the message, the reconstruction, and the decoder's round trip of the photo", "classes": "dark-light"}, "figure": {"caption": "Photo, prior only, reconstruction from the message, decoder ceiling. Under each picture: MS-SSIM to the photo, which is 1 for the photo itself.", "name": "fig-quickstart"}}
record_panel("reconstruction", reconstruction.images[:2], min_ssim=0.6)
record_panel("ceiling", ceiling[:2], min_ssim=0.97)
plots.image_rows(
    plots.by_photo(pictures.values(), names),
    list(pictures),
    chapter.captions(similarity, names),
)

# %% [markdown]
# ## The attacker's number, and ours
#
# The attacker minimises one number, the token-wise cosine distance between the message that a candidate picture *would* cause and the
# message that arrived:

# %%
pages.source(cosine_distance)

# %%
with torch.no_grad():
    tokens = {kind: client.tokens(client(images)) for kind, images in pictures.items()}
    target = client.tokens(h)
    distance = {kind: cosine_distance(own, target) for kind, own in tokens.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Curve of the IR distance of the attacker's estimate against the turn, one line per photo, with horizontal lines for prior-only pictures and for the decoder ceiling", "classes": "dark-light"}, "figure": {"caption": "IR distance of the attacker's estimate, turn by turn. The attacker sees this curve, and not the dashed lines: for them one needs the photos.", "name": "fig-quickstart-distance"}}
trace = reconstruction.trace["distance"]
plots.curves(
    {name: trace[:, i] for i, name in enumerate(names)},
    range(1, len(trace) + 1),
    xlabel="turn",
    ylabel="IR distance to the message",
    levels={
        f"{kind} (mean)": float(distance[kind].mean())
        for kind in ("prior only", "decoder ceiling")
    },
)

# %% [markdown]
# Our numbers compare pictures with the photo, which the attacker cannot do. **MS-SSIM** compares structure at several scales (1 is
# perfect; on 64-pixel pictures it needs a window of 3 pixels, smaller than usual). **PSNR** compares pixels, in decibels.
# **ST-LPIPS** compares what a trained network sees (0 is perfect). A flat grey picture is in the table as the floor that no
# method should need.

# %%
measures = {
    "MS-SSIM, higher is closer": metrics.ms_ssim,
    "PSNR (dB)": metrics.psnr,
    "ST-LPIPS, lower": metrics.st_lpips,
}
values = chapter.compared(pictures, measures)

# %% tags=["hide-input"]
ms_ssim, psnr, st_lpips = measures
rebuilt = values["rebuilt from h"]
record("ms_ssim_reconstruction", rebuilt[ms_ssim][:2], atol=0.06, direction="higher")
record("st_lpips_reconstruction", rebuilt[st_lpips][:2], atol=0.06, direction="lower")
record(
    "distance_reconstruction", reconstruction.distance[:2], atol=0.03, direction="lower"
)
record(
    "psnr_ceiling",
    values["decoder ceiling"][psnr][:2],
    atol=0.1,
    direction="higher",
    unit="dB",
)
chapter.comparison_table(values, distance, names)

# %% tags=["hide-input"]
chapter.share_read(similarity, names)

# %% [markdown]
# ## From two photos to a result
#
# Two photos are an illustration. Results in this book come from longer runs on many photos of a validation set (Imagenette, ten
# classes), with confidence intervals. They are recorded once, by a command, and drawn here from the stored numbers. The first
# compares DRAG with plain optimisation of pixels (rMLE) on a published vision transformer that was cut deep.

# %% tags=["hide-input"]
deep = study("deep")
deep.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per method: mean ST-LPIPS to the photo for DRAG, plain pixel optimisation and the three reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: ST-LPIPS to the photo (lower is closer), mean and 95 % interval, on a published ViT-S cut deep. 'DRAG' is DRAG (small, k=1), 'published settings' are DRAG (published, k=4). 'mean image' is the average training photo.", "name": "fig-quickstart-deep"}}
deep.intervals("st_lpips")

# %% [markdown]
# The second asks whether the attack works at all where it should be easy: cut at the embeddings, nothing but a linear map separates
# message and photo, and the published settings (4,000 turns) ought to come close to the decoder's ceiling. Do they?

# %% tags=["hide-input"]
overfit = study("overfit")
overfit.origin

# %% tags=["hide-input"] mystnb={"image": {"alt": "One dot with a confidence bar per method: mean MS-SSIM to the photo for DRAG at the embeddings and for the three reference rows", "classes": "dark-light"}, "figure": {"caption": "Recorded: MS-SSIM to the photo (higher is closer), mean and 95 % interval, DRAG (published) at the embeddings.", "name": "fig-quickstart-overfit"}}
overfit.intervals("ms_ssim")

# %% tags=["hide-input"]
overfit.show(chapter.short_of_the_ceiling)

# %% [markdown]
# ## Summary
#
# - The message $h$ holds no pixels, and yet a picture can be drawn from it: search among plausible pictures for one that would have
#   caused the same message.
# - The attacker needs $h$, the weights of the phone's half and a diffusion prior. The photo is never an input.
# - A reconstruction means something only beside its two neighbours, prior only and decoder ceiling.
#
# **What stops it?** The attack compares tokens one by one, so a client that sends its tokens in random order takes this comparison
# away at no cost to the server: [the next chapter](01_split_inference.ipynb) shows why, and how much it helps against an attacker who
# has not noticed.
#
# **What this page does not show.** The client is a small network on 64 × 64 pixels, trained by us; networks in use are larger, trained
# longer, and harder to invert at the same depth. The prior knows ten classes of photos. And in the other direction: this was a short
# run by an attacker with a small prior. A bad picture here is no evidence of privacy.
#
# ## Exercises
#
# **1. Your own photo.** Set `photo` to the path of a picture of yours (on Colab, upload it first), then run all cells again. Does the
# curve of the IR distance tell you, without looking, whether the reconstruction is good?
#
# <details><summary>Solution</summary>
#
# Partly. A curve that stays near the prior-only line is a failed attack. But a low distance does not force a good picture: where
# many photos share nearly one message, the prior fills in what the message leaves open. Compare the curves and MS-SSIM values of
# several photos.
#
# </details>
#
# **2. Where to cut.** Change `block:9` to `block:0`, then to `block:12`. What changes in the message, and what in the reconstruction?
#
# <details><summary>Solution</summary>
#
# The shape does not change: every block of this transformer passes on as many tokens as it got, with as many numbers. What changes is
# how entangled they are. At `block:0` each token is a linear function of its own patch; after twelve blocks of attention every token
# depends on the whole photo.
#
# </details>
#
# **3. Is it luck?** Change `seed`. Which parts of the picture stay, which change?
#
# <details><summary>Solution</summary>
#
# What stays is read from the message. What changes from seed to seed is invented by the prior, and should not be believed, however
# sharp it looks. Use `seeds=[0, 1, 2, 3]` with four copies of one message, `h[:1].expand(4, -1, -1)`, to see it in one run.
#
# </details>

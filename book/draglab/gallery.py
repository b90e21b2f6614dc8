"""The gallery of validation photos of Imagenette in which reconstructions are looked for."""

from __future__ import annotations

from dataclasses import replace

from dragkit import data, zoo
from dragkit.measures.embedding import Embedding, ir_embedding
from dragkit.measures.identification import NEAR_DUPLICATE, Gallery


def imagenette_gallery(
    attacked: int = 32,
    size: int = 1000,
    *,
    seed: int = 0,
    image_size: int = 64,
    embedding: Embedding | None = None,
    threshold: float = NEAR_DUPLICATE,
) -> Gallery:
    """`size` validation photos, balanced over the classes, that begin with `data.pick("val", attacked, seed=seed)`.

    Args:
        attacked: number of attacked photos.
        size: number of photos in the gallery.
        seed: of the choice, the same as of the attacked photos.
        image_size: side in pixels.
        embedding: where near-duplicates are found; block 6 of the embedded ViT when None.
        threshold: see `Gallery.build`.

    Raises:
        ValueError: sizes that do not fit the subset, or too many near-duplicates to fill the gallery.
    """
    available = len(data.imagenette("val", image_size)[1])
    if not 1 <= attacked <= size <= available:
        raise ValueError(
            f"attacked is {attacked} and size is {size}; they must satisfy 1 <= attacked <= size <= {available}, "
            "the photos of the subset"
        )
    embedding = embedding or ir_embedding(zoo.load_client(at="block:6"))
    photos, labels, indices = data.pick("val", min(available, size + size // 2), image_size, seed)
    gallery = Gallery.build(photos, labels, attacked, size, embedding=embedding, threshold=threshold)
    kept, removed = ([indices[i] for i in places] for places in (gallery.indices, gallery.removed))
    return replace(gallery, indices=kept, removed=removed)

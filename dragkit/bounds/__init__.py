"""What no attacker can exceed, whatever they try: error bounds from galleries of photos, success bounds from bits.

`gallery` and `bits` hold for every attacker. `fisher` holds for unbiased attackers only and is a diagnostic; `entropy_cap_psnr`
shows why bounds that go through the entropy of photos say little.
"""

from dragkit.bounds.baseline import BaselineSuccess, baseline_success
from dragkit.bounds.bits import (
    composed_bits,
    maximal_leakage_bits_code,
    maximal_leakage_gaussian,
    shuffle_bits,
    success_bound,
)
from dragkit.bounds.fisher import crb_mse, dfil, entropy_cap_psnr, trace_jtj
from dragkit.bounds.gallery import GalleryBound, GalleryIdentification, gallery_identification, gallery_mmse
from dragkit.bounds.mechanisms import Gaussian, Laplace, Mechanism

__all__ = [
    "BaselineSuccess",
    "GalleryBound",
    "GalleryIdentification",
    "Gaussian",
    "Laplace",
    "Mechanism",
    "baseline_success",
    "composed_bits",
    "crb_mse",
    "dfil",
    "entropy_cap_psnr",
    "gallery_identification",
    "gallery_mmse",
    "maximal_leakage_bits_code",
    "maximal_leakage_gaussian",
    "shuffle_bits",
    "success_bound",
    "trace_jtj",
]

"""Attacks: from a message to a photo. One method per file, one contract.

`prior` is what the attacker knows about photos: a diffusion model, a GAN, a trained inverse network or nothing. No attack ever
receives the photo. The functions lie in modules of their own (`from dragkit.attacks.drag import drag`), so that DRAG does not load
what GLASS needs; the common ones are also found in `dragkit`.
"""

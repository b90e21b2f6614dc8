"""What an attacker knows about photos: diffusion models, a GAN, an inverse network."""

"""File formats: STAR, MRC, tilt series, CTF tables, pickles of poses, latents and checkpoints, atomic writing."""

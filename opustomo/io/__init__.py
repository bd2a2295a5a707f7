"""Files: STAR, MRC, CTF tables, pickles of poses, latents and checkpoints, atomic writing."""

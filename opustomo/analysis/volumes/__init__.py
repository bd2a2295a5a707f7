"""Decoded volumes: decoding of latents, sets of volumes, volumes inside a mask, and landscapes of volumes."""

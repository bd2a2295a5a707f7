"""Inputs of training from what other programs leave: masks, cubes, CTF tables, subtomograms."""

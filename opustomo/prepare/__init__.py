"""Preparation of the inputs of training from files of other programs: masks, cubes, CTF tables, subtomograms."""

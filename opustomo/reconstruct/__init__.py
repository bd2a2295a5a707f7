"""Reconstruction by CTF-weighted back-projection of subtomograms, with half maps and their FSC."""

"""Reconstruction without a network: posed, CTF-weighted back-projection of subtomograms, half maps and their FSC."""

"""Simulation of subtomograms by projection of each tilt and Fourier insertion, independent of the training physics."""

"""Simulated subtomograms: per-tilt projection and back-insertion, independent of the training's physics."""

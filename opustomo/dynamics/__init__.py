"""Rigid-body dynamics: body geometry from masks, rotation axes, and the motion predicted by a trained model."""

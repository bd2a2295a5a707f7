"""Rigid-body dynamics: from masks to bodies, their axes, and what a trained model says of their motion."""

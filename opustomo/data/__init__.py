"""Particle set of a run: loading, validation, splitting, batching and reading of voxels."""

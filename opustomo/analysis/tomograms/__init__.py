"""Particles in their tomograms: positions, placed volumes, and neighbors."""

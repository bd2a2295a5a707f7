"""Geometry: rotations, viewing directions, tilt geometry and rigid bodies."""

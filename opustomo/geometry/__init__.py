"""Euler, quaternion and Hopf rotations, and groups of viewing directions."""

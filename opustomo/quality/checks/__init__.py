"""Checks of a particle set before training: consistency, completeness, and the required memory."""

"""Particle tables of other programs, in and out: pure functions, one format a module."""

"""Conversion of particle tables from and to other programs; pure functions, with one module per format."""

"""Tilt series: metadata of RELION, WARP, IMOD, AreTomo and SerialEM, read into one description of a series."""

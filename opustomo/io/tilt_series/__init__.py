"""Tilt series: readers of the metadata of RELION, WARP, IMOD, AreTomo and SerialEM."""

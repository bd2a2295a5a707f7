"""Fourier insertion of central slices and band-limited resampling, used by simulation and preparation."""

"""Structural heterogeneity of cryo-ET subtomograms with a variational autoencoder."""

__version__ = "0.1.0"

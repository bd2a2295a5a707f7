"""Clusters of latents, the choice of their number, and their convergence between epochs."""

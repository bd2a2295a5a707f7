"""Latent coordinates: principal components, UMAP embedding, paths, independence and landscapes of the population."""

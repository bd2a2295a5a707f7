"""Self-contained HTML report of a run: losses, latents, clusters, principal components and tomograms."""

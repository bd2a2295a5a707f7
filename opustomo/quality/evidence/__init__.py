"""Evidence supporting the clusters of a run: held-out likelihood, half-map FSC and distribution over tomograms."""

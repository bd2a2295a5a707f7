"""One page of HTML that shows a run: losses, latents, clusters, components, tomograms; nothing else is needed."""

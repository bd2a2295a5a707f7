"""Analysis of training results: clusters, traversals, figures, volumes and STAR files computed from the latents."""

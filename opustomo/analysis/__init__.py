"""Analysis of a training result: latents to classes, traversals, figures, volumes and STAR files."""

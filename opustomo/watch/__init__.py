"""Those who watch a run: metrics files, the training figure, TensorBoard, a look-out for latent collapse."""

"""Files that hold a trained model: config.pkl, weights.N.pkl, and the latents and poses of an epoch."""

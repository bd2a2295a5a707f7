"""Training: schedules, latent and pose memory, the loop, checkpoints and logs."""

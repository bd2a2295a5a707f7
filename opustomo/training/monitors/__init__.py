"""Training monitors: metrics files, figures, TensorBoard and collapse detection."""

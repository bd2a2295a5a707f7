"""GPU kernels (Triton) of the networks and of the loss; the modules above hold the same in plain torch."""

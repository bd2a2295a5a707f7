"""GPU kernels (Triton) of the model; the module of the same name in the parent package has each in plain PyTorch."""

"""Image formation: Fourier transforms, 3D CTF, B-factor envelopes, posed sampling and masks."""

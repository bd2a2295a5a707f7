"""Networks and the autoencoder that joins them to the physics."""

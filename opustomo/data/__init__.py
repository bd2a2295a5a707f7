"""The particle set of a run: what is in it, how it is split, batched and read."""

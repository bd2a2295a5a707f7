"""Quality: checks of the data before training, and evidence for the results after it."""

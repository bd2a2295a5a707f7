"""Demo: the complete command line pipeline on a simulated data set, scored against the ground truth."""

"""Is it real? What a finished run's classes are worth: held-out likelihood, half-map FSC, spread over tomograms."""

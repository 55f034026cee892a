"""One perturbation for a whole set of clips."""

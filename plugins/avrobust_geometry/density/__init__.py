"""Density of clips in the latent space: estimators, the metric of a study, and a function on arrays."""

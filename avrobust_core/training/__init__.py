"""Fitting: augmentations, the learner, the loop and its optimiser."""

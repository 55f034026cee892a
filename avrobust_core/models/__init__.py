"""Classifiers: encoders, fusions and layers they share, logits as they are answered, weights and their layouts."""

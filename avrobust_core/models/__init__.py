"""Classifiers: encoders, fusions, logits as they are answered, weights and their published layouts."""

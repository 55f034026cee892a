"""Attacks that climb a loss by its gradient, inside a region of given size."""

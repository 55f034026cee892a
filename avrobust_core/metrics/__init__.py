"""Metrics: what they are, what they may ask for, and the probe."""

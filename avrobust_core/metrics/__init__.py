"""Metrics: the base class, the latents that they may ask for, and the probe."""

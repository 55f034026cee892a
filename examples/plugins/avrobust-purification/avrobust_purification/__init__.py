"""Purification of sound and pictures before avrobust's encoders, and the attacks' way through it."""

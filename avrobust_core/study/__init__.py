"""Carrying a study out: fit each cell once, attack it, measure it, and keep what was found."""

"""Intervals and p-values: over clips, groups and fits; rank correlation."""

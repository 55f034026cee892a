"""Data sets: generated clips, media files named by a manifest or by folders, features, and published sets by name."""

"""Data sets: `toy-av`, generated on the fly, and `clips`, a manifest of media files."""

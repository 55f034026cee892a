"""Data sets: `toy-av`, generated on the fly, `clips`, a manifest of media files, and `features`, computed beforehand."""

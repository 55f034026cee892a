"""Data sets: `toy-av`, generated on the fly, `clips`, a manifest of media files, `features`, computed beforehand."""

"""Data sets: made on the spot, of media files, of features computed beforehand, and packed ones."""

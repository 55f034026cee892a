"""Data sets: made on the spot, of media files, published sets by name, features, and packed clips."""

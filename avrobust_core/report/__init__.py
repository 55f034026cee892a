"""What a run found, for a reader: terminal tables."""

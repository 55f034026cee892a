"""The Python face: `evaluate` for a model and a loader of the caller's own."""

"""Training augmentations bundled with avrobust."""

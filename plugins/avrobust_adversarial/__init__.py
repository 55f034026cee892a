"""Adversarial training bundled with avrobust: augmentations that learn from clips attacked on the way."""

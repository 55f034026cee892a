"""Metrics bundled with avrobust."""

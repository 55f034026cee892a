"""Attacks bundled with avrobust."""

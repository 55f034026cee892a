"""Attacks and corruptions that need no gradient."""

"""Bundled fusions: concatenation and sum."""

"""Bundled fusions: early, mid, cross-modal, late, of decisions, and one against a single attacked source."""

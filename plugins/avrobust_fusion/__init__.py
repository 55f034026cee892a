"""Bundled fusions: early, mid, cross-modal, late, of decisions, against a single attacked source; and CAV-MAE whole."""

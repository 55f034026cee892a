"""Bundled audio encoders: networks on log-mel spectrograms."""

"""Bundled audio encoders: convolutional networks on log-mel spectrograms."""

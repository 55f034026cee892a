"""Bundled audio encoders: networks on log-mel spectrograms, and the audio spectrogram transformer."""

"""Bundled vision-transformer encoders: the audio spectrogram transformer and CAV-MAE."""

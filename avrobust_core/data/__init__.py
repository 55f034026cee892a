"""Clips: media, batches, data sets; reading and collating them, and a look at what a loader gives."""

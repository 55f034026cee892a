"""Bundled video encoders: SlowFast, X3D, encoders of single frames and of their features, patches."""

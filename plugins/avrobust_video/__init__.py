"""Bundled video encoders: the SlowFast family."""

"""A plugin of avrobust: randomised smoothing over several modalities, which certifies robustness."""

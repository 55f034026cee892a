"""Co-occurring audio-visual corruptions for avrobust, and the published indices of robustness against them."""

"""A plugin of avrobust: attacks that are told nothing but the label."""

"""Trackers: the base class of what hands a run's curves and results on to a tool that shows them."""

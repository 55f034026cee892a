"""Terminal tables of a run's results."""

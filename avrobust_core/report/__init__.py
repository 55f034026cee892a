"""Terminal tables of a run's results, and contact sheets of clips."""

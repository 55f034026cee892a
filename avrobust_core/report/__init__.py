"""Terminal tables of a run's results, its report as one page, and contact sheets of clips."""

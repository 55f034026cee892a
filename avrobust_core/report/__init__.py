"""Terminal tables of a run's results, its report as one page, contact sheets of clips, and clips exported as media files."""

"""Terminal tables of a run's results, contact sheets of clips, and clips exported as media files."""

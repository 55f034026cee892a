"""Terminal tables of a run's results, its report as a page, contact sheets, and clips exported as media files."""

"""Published data sets by name: their official lists, and people's copies of their media."""

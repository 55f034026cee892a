"""Published threats by name: presets, one file for a leaderboard of what they find, a page that compares such files."""

"""An attack whose points are those that a media file can keep."""

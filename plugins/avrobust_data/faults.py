"""What is wrong with a media file."""


class MediaError(Exception):
    """A file cannot be used; the message is one clause that says why."""

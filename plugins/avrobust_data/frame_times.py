"""When streams begin, and timestamps that begin anew."""

from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from avrobust_data.faults import MediaError

_BACK_SECONDS = 1.0
"""Timestamps may go back this far, as some writers do by a frame or two; beyond it, they have begun anew."""


def first_time(stream: AudioStream | VideoStream) -> float:
    """The start of a stream, in seconds, for a first frame without a timestamp."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def refuse_restart(known: float, time: float, what: str) -> None:
    """Refuse timestamps that begin anew, as where two recordings stand one behind the other in one file."""
    if time < known - _BACK_SECONDS:
        raise MediaError(
            f"the timestamps of its {what} go back from {known:.2f} to {time:.2f} s; rewrite it with FFmpeg, which "
            "makes them new"
        )

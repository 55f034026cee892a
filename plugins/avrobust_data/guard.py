"""What decoding one clip may cost: seconds, pixels of a picture, samples of a packet."""

import time
from collections.abc import Mapping
from typing import Final

from avrobust_data.faults import MediaError

MOST_PIXELS: Final = 64_000_000
"""Of one picture: about twice those of 8K video. Each takes 1.5 bytes or more, and a decoder keeps up to 16 of them."""

_MOST_SAMPLES: Final = 1 << 24
"""Of one packet of sound, in each channel."""

DECODER_LIMITS: Final[Mapping[str, str]] = {"max_pixels": str(MOST_PIXELS), "max_samples": str(_MOST_SAMPLES)}
"""Options of FFmpeg's decoders, which refuse what is larger before they allocate it."""


class Watch:
    """A limit on the time that one clip takes, looked at between packets and frames.

    Reading a packet is interrupted by FFmpeg itself, which gets the limit when it opens a file; decoding a single
    frame is not, but is bounded by the size of a picture.

    Args:
        seconds: the limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    def look(self) -> None:
        """Do nothing while there is time.

        Raises:
            MediaError: if the time is up.
        """
        if time.monotonic() > self._until:
            raise TooSlow(f"to decode it takes more than {self.seconds:g} s (clip_timeout)")


class TooSlow(MediaError):
    """Decoding took too long."""


def refuse_size(width: int, height: int) -> None:
    """Refuse pictures that are too large to be decoded.

    Raises:
        MediaError: states their size.
    """
    if width * height > MOST_PIXELS:
        raise MediaError(
            f"its pictures have {width} x {height} pixels, more than {MOST_PIXELS // 1_000_000} million: damaged, or "
            "made to exhaust memory"
        )

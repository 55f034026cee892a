"""What collectors of decoded frames have in common."""

from avrobust_data.picture_collector import PictureCollector
from avrobust_data.sound_collector import SoundCollector

Collector = SoundCollector | PictureCollector
"""Takes the frames of one stream.

`done` says that no later frame can change the result, `begin` where the first frame began (None: no frame yet, or one
without a timestamp), `early` that this was early enough for the result to be right, `end` where the last frame ended,
in the stream's time in seconds, `step` how long one frame is in seconds, as far as it is known; once it is finished,
`padded` what share of the result is behind the end of the stream or segment.
"""

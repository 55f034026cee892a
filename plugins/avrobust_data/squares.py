"""From a decoded picture to a square of a given size: upright, with square pixels."""

from collections.abc import Mapping
from typing import Any, Final, cast

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from avrobust_data.faults import MediaError

_WIDEST_PIXEL: Final = 20.0
"""Pixels that are said to be longer than this in one direction are a damaged header's."""

_WIDEST_PICTURE: Final = 100.0
"""Pictures that are longer than this in one direction are a damaged header's, or made to exhaust memory."""

_ONE_THREAD: Final = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
"""For resizing; the loader's processes share the cores already. Earlier versions of PyAV have one only."""


class Squarer:
    """Resizes pictures of one clip.

    Args:
        size: height and width S of the result in pixels.
        stretch: resize without regard to the aspect ratio, else crop to the central square.
    """

    def __init__(self, size: int, *, stretch: bool) -> None:
        self._size = size
        self._stretch = stretch
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, pixel_aspect: float) -> NDArray[np.uint8]:
        """(S, S, 3) uint8, RGB, upright.

        Args:
            frame: the picture.
            pixel_aspect: width over height of its pixels.

        Raises:
            MediaError: if pixels or picture are impossibly wide or high, or it is to be turned by less than a quarter.
        """
        width = height = self._size
        if not self._stretch:
            if not 1 / _WIDEST_PIXEL <= pixel_aspect <= _WIDEST_PIXEL:
                raise MediaError(f"its pixels are said to be {pixel_aspect:.4g} times as wide as high")
            aspect = pixel_aspect * frame.width / frame.height
            if not 1 / _WIDEST_PICTURE <= aspect <= _WIDEST_PICTURE:
                raise MediaError(f"its pictures are {aspect:.4g} times as wide as high")
            width, height = max(width, round(width * aspect)), max(height, round(height / aspect))
        converted = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=Interpolation.BILINEAR, **_ONE_THREAD
        )
        resized = cast("NDArray[np.uint8]", converted.to_ndarray())
        left, top = (width - self._size) // 2, (height - self._size) // 2
        return _upright(resized[top : top + self._size, left : left + self._size], frame)


def _upright(picture: NDArray[np.uint8], frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A picture (H, W, 3) turned and mirrored as its display matrix says, if it has one.

    The matrix takes (x, y), to the right and down, to (a x + c y, b x + d y); scale does not matter here.

    Raises:
        MediaError: if the picture is to be turned by less than a quarter.
    """
    side_data = cast("Mapping[SideDataType, Any]", frame.side_data)
    stated = side_data.get(SideDataType.DISPLAYMATRIX)
    if stated is None:
        return picture
    a, b, _, c, d = np.frombuffer(stated, np.int32)[:5].astype(float)
    if not (a or b or c or d):  # never filled in: FFmpeg takes no notice of it
        return picture
    large = max(abs(a), abs(b), abs(c), abs(d)) / 100
    if max(abs(b), abs(c)) <= large < min(abs(a), abs(d)):
        across, down = a, d
    elif max(abs(a), abs(d)) <= large < min(abs(b), abs(c)):
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        raise MediaError("its pictures are to be turned by less than a quarter, or sheared")
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]

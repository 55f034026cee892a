"""What an encoder asks of a modality is refused in a sentence where it is not so."""

import re

import pytest

from avrobust_core import DataError, MediaSpec

PICTURES = ("pictures", "video", (3, "frames", "height", "width"))


def test_a_modality_of_the_kind_and_shape_that_is_asked_for_passes() -> None:
    MediaSpec(kind="video", shape=(3, 1, 7, 9)).require(*PICTURES)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("audio", (3, 1, 7, 9)), ("video", (1, 1, 7, 9)), ("video", (3, 1, 7)), ("video", (3, 0, 7, 9)), ("video", ())],
)
def test_another_modality_is_refused_with_what_is_asked_for_and_what_it_is(kind: str, shape: tuple[int, ...]) -> None:
    said = (
        "this encoder reads pictures, kind 'video' of shape (3, frames, height, width), not kind "
        f"{kind!r} of shape {shape}; give this modality another encoder"
    )
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        MediaSpec(kind=kind, shape=shape).require(*PICTURES)

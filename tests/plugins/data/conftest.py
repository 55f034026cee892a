"""Fixtures of the data plugin's tests: media files encoded on the spot, manifests, and the real clips."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest

REAL = Path(__file__).parents[4] / "shared" / "data" / "avdigits"


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The manifest of the 1,000 real clips that lie beside the checkout."""
    manifest = REAL / "manifest.csv"
    if not manifest.is_file():
        pytest.skip("the real clips are not beside this checkout")
    return manifest


def sine(hertz: float, amplitude: float, rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """(channels, N) float32."""
    t = np.arange(round(rate * seconds)) / rate
    return np.tile((amplitude * np.sin(2 * np.pi * hertz * t)).astype(np.float32), (channels, 1))


def solid(colour: tuple[int, int, int], count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width, 3) uint8."""
    return np.broadcast_to(np.array(colour, np.uint8), (count, height, width, 3)).copy()


def write_media(
    path: Path,
    *,
    sound: np.ndarray | None = None,
    rate: int = 16000,
    pictures: np.ndarray | None = None,
    fps: int = 16,
    at_ms: Sequence[int] | None = None,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Encode sound (channels, N) float32 and pictures (F, H, W, 3) uint8, interleaved as a camera would.

    `at_ms` gives each picture its own time in ms, for a variable frame rate.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        packets = []
        if pictures is not None:
            video = container.add_stream(video_codec, rate=fps)
            video.width, video.height, video.pix_fmt = pictures.shape[2], pictures.shape[1], pixel_format
            if at_ms is not None:
                video.codec_context.time_base = Fraction(1, 1000)
                video.time_base = Fraction(1, 1000)
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(audio_codec, rate=rate, layout=layout)
        if pictures is not None:
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number if at_ms is None else at_ms[number]
                frame.time_base = Fraction(1, fps) if at_ms is None else Fraction(1, 1000)
                packets += video.encode(frame)
            packets += video.encode(None)
        if sound is not None:
            packed = audio_codec != "aac"
            for start in range(0, sound.shape[1], 1024):
                piece = np.ascontiguousarray(sound[:, start : start + 1024])
                data = piece.T.reshape(1, -1) if packed else piece
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(data), format="flt" if packed else "fltp", layout=layout
                )
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                packets += audio.encode(frame)
            packets += audio.encode(None)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            container.mux(packet)
    return path


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of 440 Hz at 16 kHz beside 16 red pictures, 48 wide and 32 high; index at the front."""
    return write_media(
        tmp_path_factory.mktemp("media") / "ordinary.mp4",
        sound=sine(440, 0.5, 16000, 1.0),
        pictures=solid((200, 30, 40), 16, 32, 48),
        options={"movflags": "faststart"},
    )


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a manifest's text into the test's folder."""

    def write(text: str, name: str = "manifest.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def media() -> Callable[..., Path]:
    """The function that encodes a file."""
    return write_media


def write_arrays(place: Path, arrays: dict[str, np.ndarray], storage: str) -> None:
    """Write arrays, by names like "eval/data/feat_a", as one HDF5 or .npz file, or as a folder of .npy files."""
    if storage == "npy":
        for name, array in arrays.items():
            file = place / f"{name}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, array)
    elif storage == "npz":
        np.savez(place, **arrays)
    else:
        with h5py.File(place, "w") as file:
            for name, array in arrays.items():
                packed = storage == "hdf5-gzip" and array.size
                settings = {"chunks": (1, *array.shape[1:]), "compression": "gzip"} if packed else {}
                file.create_dataset(name, data=array, **settings)


@pytest.fixture(scope="session")
def store() -> Callable[..., None]:
    """The function that writes arrays."""
    return write_arrays


def features_of(split: str, clips: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A split in the reference's layout, smaller: features (N, 8, 32) and (N, 3, 6), labels (N, 5); all float32."""
    rng = np.random.default_rng([seed, clips])
    labels = (rng.random((clips, 5)) < 0.3).astype(np.float32)
    labels[np.arange(clips), rng.integers(5, size=clips)] = 1
    return {
        f"{split}/data/feat_a": rng.uniform(-2, 2, (clips, 8, 32)).astype(np.float32),
        f"{split}/data/feat_v": rng.uniform(-0.5, 1.5, (clips, 3, 6)).astype(np.float32),
        f"{split}/data/labels": labels,
    }


@pytest.fixture(scope="session")
def reference_layout() -> dict[str, np.ndarray]:
    """The arrays of a small file as the reference's: seven clips to validate with, five to evaluate."""
    return features_of("valid", 7) | features_of("eval", 5)

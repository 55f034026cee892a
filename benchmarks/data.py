"""Reading clips, beside the least that PyAV needs for the same media.

    python benchmarks/data.py --manifest CSV [--clips 200] [--repeats 5]

`decoding`: clips per second of one process, and their ratio to loops that open each file with PyAV, decode it, resample
the sound and resize the pictures, and check nothing: `bare` resizes by `frame.reformat`, `tuned` with one scaler for
all pictures of a clip. `seeking`: a window of one second far into a long file, beside a loop that seeks, decodes from
the keyframe on and stops. They take turns, the best of each counts, in seconds of the processor. The last line is JSON.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from avrobust_data.configs import DecodingConfig
from avrobust_data.decoding import decode
from numpy.typing import NDArray

RATE, FRAMES, SIZE = 16_000, 16, 64


Arrays = tuple[NDArray[np.float32], NDArray[np.uint8]]


def bare(path: Path, begin: float | None = None, seconds: float = 1.0, tuned: bool = False) -> Arrays:
    """Sound and pictures of a file, or of a window of it, by nothing but PyAV; tuned, with one scaler."""
    with av.open(str(path)) as container:
        streams: Any = container.streams
        sound, picture = streams.audio[0], streams.video[0]
        sound.thread_count = picture.thread_count = 1
        start = 0.0 if begin is None else begin
        if begin is not None:
            container.seek(int(begin / picture.time_base), stream=picture)
        resampler, reformatter = av.AudioResampler(format="fltp", layout="mono", rate=RATE), VideoReformatter()
        samples, pictures = [], []
        times = iter([start + (i + 0.5) * seconds / FRAMES for i in range(FRAMES)] if begin is not None else ())
        wanted, over = next(times, None), set()
        frames: list[Any] = []
        for packet in container.demux(sound, picture):
            frames = list(packet.decode())
            for frame in frames:
                time_of: float = frame.time
                if begin is not None and time_of > start + seconds:
                    over.add(packet.stream.type)
                elif isinstance(frame, av.AudioFrame):
                    if time_of >= start - 0.1:
                        samples += [piece.to_ndarray() for piece in resampler.resample(frame)]
                elif begin is None or (wanted is not None and time_of >= wanted):
                    resize = partial(reformatter.reformat, frame) if tuned else frame.reformat
                    pictures.append(resize(SIZE, SIZE, format="rgb24").to_ndarray())
                    wanted = next(times, None)
            if len(over) == 2:
                break
    return np.concatenate(samples, axis=1), np.stack(pictures)


def best_of(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of the processor that each way takes at best; they take turns, so that both see the same machine."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            found[name] = min(found[name], time.process_time() - start)
    return found


def decoding(paths: Sequence[Path], repeats: int) -> dict[str, float]:
    """Whole clips of one second."""
    config = DecodingConfig(seconds=1.0, sample_rate=RATE, frames=FRAMES, size=SIZE)
    found = best_of(
        {
            "ours": lambda: [decode(path, config) for path in paths],
            "bare": lambda: [bare(path) for path in paths],
            "tuned": lambda: [bare(path, tuned=True) for path in paths],
        },
        repeats,
    )
    clips = {f"{name}_clips_per_second": round(len(paths) / seconds, 1) for name, seconds in found.items()}
    return clips | {f"over_{name}": round(found[name] / found["ours"], 3) for name in ("bare", "tuned")}


def seeking(folder: Path, length: float, repeats: int) -> dict[str, float]:
    """Windows of one second at eight tenths of a file: milliseconds for each."""
    path = folder / "long.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        picture.width, picture.height, picture.pix_fmt, picture.gop_size = 160, 120, "yuv420p", 125
        sound = container.add_stream("aac", rate=44100, layout="mono")
        rng = np.random.default_rng(0)
        for second in range(int(length)):
            tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, second * 44100, Fraction(1, 44100)
            container.mux(sound.encode(frame))
            still = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
            for number in range(25):
                image = av.VideoFrame.from_ndarray(np.roll(still, 4 * number, 1), format="rgb24")
                image.pts, image.time_base = second * 25 + number, Fraction(1, 25)
                container.mux(picture.encode(image))
        container.mux([*sound.encode(None), *picture.encode(None)])
    config = DecodingConfig(seconds=1.0, sample_rate=RATE, frames=FRAMES, size=SIZE, window="start")
    begins = [0.8 * length + 0.57 * number for number in range(15)]  # anywhere between two keyframes
    found = best_of(
        {
            "ours": lambda: [decode(path, config, begin, begin + 1) for begin in begins],
            "bare": lambda: [bare(path, begin, tuned=True) for begin in begins],
        },
        repeats,
    )
    figures = {f"{name}_ms": round(1000 * seconds / len(begins), 1) for name, seconds in found.items()}
    return {"file_seconds": length, **figures, "over_bare": round(found["bare"] / found["ours"], 3)}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long", type=float, default=600.0, help="length of the long file in seconds")
    parser.add_argument("--manifest", type=Path, required=True, help="of short clips, with a column path")
    asked = parser.parse_args()
    if not asked.manifest.is_file():
        sys.exit(f"no manifest {asked.manifest}: name one of short clips with --manifest")
    with asked.manifest.open(newline="", encoding="utf-8") as file:
        paths = [asked.manifest.parent / row["path"] for row in csv.DictReader(file)][: asked.clips]
    result: dict[str, object] = {"clips": len(paths), "decoding": decoding(paths, asked.repeats)}
    with tempfile.TemporaryDirectory() as folder:
        result["seeking"] = seeking(Path(folder), asked.long, asked.repeats)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

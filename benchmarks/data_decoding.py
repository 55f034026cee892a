"""Decoding clips, beside the least that PyAV needs for the same media, and beside torchcodec where it loads.

Loops open each file with PyAV, decode it, resample the sound and resize the pictures, and check nothing: `bare` resizes
by `frame.reformat`, `tuned` with one scaler for all pictures of a clip. They take turns, the best of each counts, in
seconds of the processor.
"""

import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from avrobust_data.configs import DecodingConfig
from avrobust_data.decoding import decode
from numpy.typing import NDArray

RATE, FRAMES, SIZE = 16_000, 16, 64
CONFIG = DecodingConfig(seconds=1.0, sample_rate=RATE, frames=FRAMES, size=SIZE, window="start")

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


def torchcodec_loop() -> Callable[[Path], Arrays] | str:
    """What reads a whole clip with torchcodec, at the times that ours reads; or why there is none."""
    try:
        decoders: Any = import_module("torchcodec.decoders")
        transforms: Any = import_module("torchcodec.transforms")
    except (ImportError, RuntimeError, OSError) as error:  # it finds no FFmpeg, or is of another torch
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    times = [(i + 0.5) / FRAMES for i in range(FRAMES)]

    def read(path: Path) -> Arrays:
        resize = [transforms.Resize((SIZE, SIZE))]
        pictures = decoders.VideoDecoder(str(path), num_ffmpeg_threads=1, transforms=resize)
        sound = decoders.AudioDecoder(str(path), sample_rate=RATE, num_channels=1)
        heard = sound.get_samples_played_in_range(0.0, 1.0).data.numpy()
        return heard, pictures.get_frames_played_at(times).data.permute(0, 2, 3, 1).numpy()

    return read


def agreement(paths: Sequence[Path], read: Callable[[Path], Arrays]) -> dict[str, float]:
    """How far another reader's sound and pictures are from ours, over clips of one second."""
    sounds, pictures, lengths = [], [], 0
    for path in paths:
        heard, seen = read(path)
        mine = decode(path, CONFIG)
        count = min(heard.shape[1], mine["audio"].shape[1])
        lengths += heard.shape[1] != mine["audio"].shape[1]
        sounds.append(np.abs(heard[:, :count] - mine["audio"][:, :count]).max())
        pictures.append(np.abs(seen.astype(float) - mine["video"].transpose(1, 2, 3, 0)).mean())
    return {
        "sound_differs_at_most": float(np.max(sounds)),
        "pictures_differ_in_the_mean": float(np.mean(pictures)),
        "pictures_differ_at_most_in_the_mean_of_a_clip": float(np.max(pictures)),
        "clips_of_other_length": lengths,
    }


def decoding(paths: Sequence[Path], repeats: int) -> dict[str, Any]:
    """Whole clips of one second."""
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: [decode(path, CONFIG) for path in paths],
        "bare": lambda: [bare(path) for path in paths],
        "tuned": lambda: [bare(path, tuned=True) for path in paths],
    }
    read = torchcodec_loop()
    result: dict[str, Any] = {"clips": len(paths)}
    if isinstance(read, str):
        result["torchcodec"] = read
    else:
        result["torchcodec"] = agreement(paths, read)
        ways["torchcodec"] = lambda: [read(path) for path in paths]
    found = best_of(ways, repeats)
    result |= {f"{name}_clips_per_second": round(len(paths) / seconds, 1) for name, seconds in found.items()}
    return result | {f"over_{name}": round(found[name] / found["ours"], 3) for name in ways if name != "ours"}


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
    begins = [0.8 * length + 0.57 * number for number in range(15)]  # anywhere between two keyframes
    found = best_of(
        {
            "ours": lambda: [decode(path, CONFIG, begin, begin + 1) for begin in begins],
            "bare": lambda: [bare(path, begin, tuned=True) for begin in begins],
        },
        repeats,
    )
    figures = {f"{name}_ms": round(1000 * seconds / len(begins), 1) for name, seconds in found.items()}
    return {"file_seconds": length, **figures, "over_bare": round(found["bare"] / found["ours"], 3)}

"""Files of many kinds: picture, aspect, orientation, level and time are those that FFmpeg's program gives."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from avrobust_data.configs import DecodingConfig
from avrobust_data.decoding import decode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the program ffmpeg"),
]

SIZE = 32
EVENTS = (0.6, 1.4, 2.2)
"""When a flash in the lower half of the picture and a tone begin together; each lasts a fifth of a second."""

LENGTH = 3.0
X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
AAC = "-c:a aac"

KINDS = {
    "mp4": f"{X264} {AAC}",
    "mp4: B-frames": f"-c:v libx264 -bf 3 -pix_fmt yuv420p {AAC}",
    "mp4: HEVC": f"-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p {AAC}",
    "mp4: MPEG-4 part 2, B-frames": f"-c:v mpeg4 -bf 2 -q:v 2 {AAC}",
    "mp4: in fragments": f"{X264} {AAC} -g 10 -movflags frag_keyframe+empty_moov",
    "mp4: MP3": f"{X264} -c:a libmp3lame",
    "mp4: AC-3, 5.1": f"{X264} -c:a ac3 -ac 6",
    "mp4: Opus": f"{X264} -c:a libopus -ar 48000",
    "mp4: 10 bits": f"-c:v libx264 -pix_fmt yuv420p10le {AAC}",
    "mp4: 4:2:2": f"-c:v libx264 -pix_fmt yuv422p {AAC}",
    "mp4: grey": f"-c:v libx264 -pix_fmt gray {AAC}",
    "mp4: full range": f"-c:v libx264 -pix_fmt yuvj420p {AAC}",
    "mp4: BT.709": f"{X264} -vf scale=out_color_matrix=bt709 -colorspace bt709 -color_primaries bt709 {AAC}",
    "mp4: interlaced": f"{X264} -flags +ildct+ilme -x264opts tff=1 {AAC}",
    "mp4: pixels 4:3": f"{X264} -vf setsar=4/3 {AAC}",
    "mp4: pixels 10:11": f"{X264} -vf setsar=10/11 {AAC}",
    "mp4: turned right": f"{X264} {AAC} -metadata:s:v rotate=90",
    "mp4: upside down": f"{X264} {AAC} -metadata:s:v rotate=180",
    "mp4: turned left": f"{X264} {AAC} -metadata:s:v rotate=270",
    "mp4: turned, pixels 2:1": f"{X264} -vf setsar=2/1 {AAC} -metadata:s:v rotate=90",
    "mp4: 120 pictures per second": f"{X264} -r 120 {AAC}",
    "mp4: 5 pictures per second": f"{X264} -r 5 {AAC}",
    "mp4: variable rate": f"{X264} -vf mpdecimate -vsync vfr {AAC}",
    "mp4: 29.97 pictures per second": f"{X264} -r 30000/1001 {AAC}",
    "mp4: begins at 100 s": f"{X264} {AAC} -output_ts_offset 100",
    "mp4: 8 kHz": f"{X264} {AAC} -ar 8000",
    "mp4: 96 kHz": f"{X264} {AAC} -ar 96000",
    "mp4: mono": f"{X264} {AAC} -ac 1",
    "mp4: with subtitles and a second sound": f"-map 0 -map 0:a {X264} {AAC} -metadata:s:a:1 language=deu",
    "3gp": f"-c:v mpeg4 -q:v 2 {AAC} -ar 16000 -ac 1",
    "mov: ProRes, 24 bits": "-c:v prores_ks -pix_fmt yuv422p10le -c:a pcm_s24le",
    "mov: Motion JPEG, 16 bits": "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p -c:a pcm_s16be",
    "mov: PNG, ALAC": "-c:v png -c:a alac",
    "mov: QuickTime animation, transparent": "-c:v qtrle -pix_fmt argb -c:a pcm_u8",
    "mov: with a time code": f"{X264} -timecode 01:00:00:00 -c:a pcm_f32le",
    "mkv": f"{X264} {AAC}",
    "mkv: FFV1, FLAC": "-c:v ffv1 -pix_fmt yuv444p -c:a flac",
    "mkv: uncompressed": "-c:v rawvideo -pix_fmt yuv420p -c:a pcm_s32le",
    "mkv: 7.1": f"{X264} -c:a flac -ac 8",
    "mkv: Vorbis, quadro": f"{X264} -c:a libvorbis -ac 4",
    "mkv: E-AC-3": f"{X264} -c:a eac3",
    "mkv: DTS": f"{X264} -c:a dca -strict -2 -ar 48000",
    "mkv: WavPack": f"{X264} -c:a wavpack",
    "mkv: pixels 2:1 by the container": f"{X264} {AAC} -aspect 8:3",
    "webm: VP8, Vorbis": "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M -c:a libvorbis",
    "webm: VP9, Opus": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 1M -c:a libopus",
    "webm: VP8, transparent": "-c:v libvpx -deadline realtime -b:v 1M -pix_fmt yuva420p -auto-alt-ref 0 -c:a libopus",
    "avi: MPEG-4, MP3": "-c:v mpeg4 -q:v 2 -c:a libmp3lame",
    "avi: Motion JPEG, PCM": "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p -c:a pcm_s16le",
    "avi: MP3 of variable rate": "-c:v mpeg4 -q:v 2 -c:a libmp3lame -q:a 4",
    "avi: HuffYUV, 8 bits": "-c:v huffyuv -pix_fmt yuv422p -c:a pcm_u8",
    "avi: uncompressed BGR": "-c:v rawvideo -pix_fmt bgr24 -c:a adpcm_ima_wav",
    "wmv": "-c:v wmv2 -q:v 2 -c:a wmav2",
    "asf: MS-MPEG-4": "-c:v msmpeg4 -q:v 2 -c:a libmp3lame",
    "flv: Sorenson": "-c:v flv -q:v 2 -c:a libmp3lame -ar 44100",
    "flv: H.264": f"{X264} {AAC}",
    "ts": f"{X264} {AAC}",
    "ts: MPEG-2, MP2": "-c:v mpeg2video -q:v 2 -bf 2 -c:a mp2",
    "ts: H.264, AC-3, begins at 1000 s": f"{X264} -c:a ac3 -output_ts_offset 1000",
    "m2ts": f"{X264} -c:a ac3",
    "mpg: MPEG-1": "-c:v mpeg1video -q:v 2 -c:a mp2",
    "vob: MPEG-2": "-c:v mpeg2video -q:v 2 -c:a ac3",
    "ogv: Theora, Vorbis": "-c:v libtheora -q:v 9 -c:a libvorbis",
    "ogv: Theora, FLAC": "-c:v libtheora -q:v 9 -c:a flac",
    "nut": f"{X264} -c:a libvorbis",
    "mxf": "-c:v mpeg2video -q:v 2 -c:a pcm_s16le -ar 48000",
    "wtv": "-c:v mpeg2video -q:v 2 -c:a mp2",
}
"""By kind, how the program is to write it; the name begins with the suffix."""

SHIFTED = {
    "mp4: the sound begins late": ("mp4", 0.0, 0.3),
    "mp4: the picture begins late": ("mp4", 0.2, 0.0),
    "mkv: the sound begins late": ("mkv", 0.0, 0.3),
    "mkv: the picture begins late": ("mkv", 0.2, 0.0),
    "ts: the sound begins late": ("ts", 0.0, 0.3),
    "avi: the sound begins late": ("avi", 0.0, 0.3),
}
"""Seconds by which the picture and the sound are shifted."""


def run(*arguments: object) -> bytes:
    words = [str(argument) for argument in arguments]
    done = subprocess.run(["ffmpeg", "-v", "error", "-y", "-nostdin", *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def happens(t: np.ndarray) -> np.ndarray:
    return np.any([(t >= event) & (t < event + 0.2) for event in EVENTS], axis=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds without loss: 64 x 48 pixels at 25 per second, with coloured quarters, and sound at 48 kHz."""
    path = tmp_path_factory.mktemp("source") / "source.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv444p"
        audio = container.add_stream("pcm_s16le", rate=48000, layout="stereo")
        packets = []
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:24, :32], picture[:24, 32:] = (200, 40, 40), (40, 160, 60)
        picture[24:, :32], picture[24:, 32:] = (40, 40, 90), (20, 20, 20)
        for number, on in enumerate(happens(np.arange(75) / 25 + 1e-6)):
            shown = picture.copy()
            if on:
                shown[24:] = 235
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        t = np.arange(round(48000 * LENGTH)) / 48000
        tone = np.where(happens(t), 20000 * np.sin(2 * np.pi * 800 * t), 0).astype(np.int16)
        for start in range(0, len(t), 1200):
            piece = np.repeat(tone[start : start + 1200], 2)[None]
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="s16", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
            packets += audio.encode(sound)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def onsets(strength: np.ndarray, threshold: float, rate: float) -> np.ndarray:
    """When something begins after a third of a second without it, in seconds."""
    at = np.flatnonzero(strength > threshold) / rate
    return np.array([t for t, before in zip(at, [-np.inf, *at[:-1]], strict=True) if t - before > 0.33])


def as_the_program_has_it(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (F, S, S, 3) at 200 per second, and sound (T,) at 16 kHz, each in the file's own time."""
    squares = (
        f"scale='max(1,round(iw*sar))':ih:flags=bilinear,setsar=1,crop='min(iw,ih)':'min(iw,ih)',scale={SIZE}:{SIZE}"
    )
    pictures, sound = path.with_suffix(".rgb"), path.with_suffix(".s16")
    run(
        *("-i", path, "-map", "0:v:0", "-vf", f"{squares}:flags=bilinear,fps=200:start_time=0", "-t", LENGTH),
        *("-pix_fmt", "rgb24", "-f", "rawvideo", pictures),
        *("-map", "0:a:0", "-af", "aresample=16000:async=1:min_hard_comp=0.01:first_pts=0,aformat=s16", "-t", LENGTH),
        *("-ac", "1", "-f", "s16le", sound),  # of whole numbers it scales its mix to the sum of weights, as we do
    )
    shape = (-1, SIZE, SIZE, 3)
    return np.fromfile(pictures, np.uint8).reshape(shape), np.fromfile(sound, np.int16) / np.float32(32768)


def compare(path: Path) -> None:
    config = DecodingConfig(seconds=LENGTH, sample_rate=16000, frames=300, size=SIZE, window="start")
    found = decode(path, config)
    pictures, sound = as_the_program_has_it(path)
    mine = found["video"].transpose(1, 2, 3, 0)
    for seconds in (1.1, 1.5, 2.1):
        difference = np.abs(mine[round(100 * seconds)].astype(float) - pictures[round(200 * seconds)])
        assert difference.mean() < 6, seconds
    flashes = [
        onsets(each[:, SIZE * 3 // 4, 2:-2].mean((1, 2)), 140, rate) for each, rate in ((mine, 100), (pictures, 200))
    ]
    if len(flashes[1]):  # not where the picture is turned, so that the flash is elsewhere
        assert flashes[0] == pytest.approx(flashes[1], abs=0.025)
    heard = [onsets(np.abs(each), 0.5 * np.abs(each).max(), 16000) for each in (found["audio"][0], sound)]
    assert len(heard[1]) == len(EVENTS)
    assert heard[0] == pytest.approx(heard[1], abs=0.025)
    length = min(len(sound), found["audio"].shape[1])
    assert found["audio"][0, :length].std() == pytest.approx(sound[:length].std(), rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_as_the_program_reads_it(tmp_path, source, kind) -> None:
    path = tmp_path / f"film.{kind.partition(':')[0]}"
    run("-i", source, *KINDS[kind].split(), path)
    compare(path)


@pytest.mark.parametrize("kind", SHIFTED)
def test_streams_that_begin_at_different_times_stay_where_they_are(tmp_path, source, kind) -> None:
    suffix, picture, sound = SHIFTED[kind]
    path = tmp_path / f"film.{suffix}"
    inputs = ("-itsoffset", picture, "-i", source, "-itsoffset", sound, "-i", source)
    codecs = "-c:v mpeg4 -q:v 2 -c:a libmp3lame" if suffix == "avi" else f"{X264} {AAC}"
    run(*inputs, "-map", "0:v", "-map", "1:a", *codecs.split(), path)
    compare(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_part_that_was_cut_out_without_encoding_it_anew_is_in_step(tmp_path, source, suffix) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"part.{suffix}"
    run("-stream_loop", 2, "-i", source, *f"{X264} -g 20 {AAC}".split(), whole)
    run("-ss", 3.1, "-i", whole, "-c", "copy", "-t", 3.6, path)
    compare(path)

"""Two processes that train together read each clip once per epoch: from files, from shards, in the shards' order."""

import os
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from avrobust_audio.plugin import avrobust_encoders
from avrobust_data.clips import make_clips
from avrobust_data.configs import ClipsConfig
from lightning_fabric import Fabric

from avrobust_core import AVModel, Clip, Dataset, PackedClips
from avrobust_core.data.loader import Loader
from avrobust_core.data.packing import pack
from avrobust_core.training.fit import Fit
from avrobust_core.training.settings import Regime

CLIPS, EPOCHS = 16, 3


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Sixteen sounds to learn from and two to test with."""
    folder = tmp_path_factory.mktemp("sounds")
    rng, rows = np.random.default_rng(0), ["path,label,split"]
    for i in range(CLIPS + 2):
        with av.open(str(folder / f"{i}.wav"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            sound = rng.integers(-9000, 9000, (1, 2000), dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux([*stream.encode(frame), *stream.encode(None)])
        rows.append(f"{i}.wav,{i % 2},{'train' if i < CLIPS else 'test'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    config = ClipsConfig(
        manifest=folder / "manifest.csv", modalities=("audio",), seconds=0.25, sample_rate=8000, cache_mib=0
    )
    return make_clips(config)


def watched(dataset: Dataset, log: Path) -> Dataset:
    """The same data set, which writes a line for each clip that it reads."""
    read = dataset.read

    def logged(split: str, index: int) -> Clip:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {split} {index}\n")
        return read(split, index)

    dataset.read = logged  # type: ignore[method-assign]
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize("source", ["files", "shards", "shards in their order"])
def test_two_processes_read_each_clip_once_per_epoch(source: str, sounds: Dataset, tmp_path: Path) -> None:
    dataset = sounds
    if source != "files":
        pack(sounds, tmp_path / "packed", shard_clips=5)
        dataset = PackedClips(tmp_path / "packed", None if source == "shards" else 64)
    watched(dataset, tmp_path / "log")
    cnn = next(component for component in avrobust_encoders() if component.name == "cnn")
    encoder = cnn.make(cnn.config(channels=[4]), dataset.media["audio"])

    def fit(fabric: Fabric) -> None:
        regime = Regime(epochs=EPOCHS, batch_size=4, select="last")
        folder, model = tmp_path / "fit", AVModel({"audio": encoder}, None, 2)
        Fit(fabric, model, Loader(dataset), regime, [], seed=0, folder=folder, report=lambda done, total: None).run()

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(fit)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    by_process: dict[str, list[int]] = {}
    for process, split, index in lines:
        assert split == "train"
        by_process.setdefault(process, []).append(int(index))
    one, two = by_process.values()
    assert len(one) == len(two) == EPOCHS * CLIPS // 2
    for epoch in range(EPOCHS):
        part = slice(epoch * CLIPS // 2, (epoch + 1) * CLIPS // 2)
        assert Counter(one[part] + two[part]) == dict.fromkeys(range(CLIPS), 1)
    assert one[: CLIPS // 2] != one[CLIPS // 2 : CLIPS], "in another order"

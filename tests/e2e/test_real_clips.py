"""The study on real media: shared test clips, some of them damaged."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIPS = ROOT.parent / "shared" / "data" / "avdigits"

pytestmark = pytest.mark.skipif(not CLIPS.exists(), reason="the shared clips are not here")


def test_corrupt_clips_are_skipped_counted_and_named(tmp_path: Path, run_command, last_json) -> None:
    media = tmp_path / "media"
    (media / "clips").mkdir(parents=True)
    lines = (CLIPS / "manifest.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    train = [row for row in rows if row[2] == "train"][::8][:100]
    test = [row for row in rows if row[2] == "test"][::5][:40]
    for row in train + test:
        shutil.copy(CLIPS / row[0], media / row[0])
    (media / "manifest.csv").write_text("\n".join([lines[0], *(",".join(row) for row in train + test)]) + "\n")
    bad = {"train": [row[0] for row in train[3:6]], "test": [row[0] for row in test[5:7]]}
    whole = (media / bad["train"][0]).read_bytes()
    (media / bad["train"][0]).write_bytes(whole[: len(whole) // 2])
    (media / bad["train"][1]).write_bytes(b"")
    (media / bad["train"][2]).unlink()
    (media / bad["test"][0]).write_bytes(b"\x00" * 4096)
    (media / bad["test"][1]).write_text("not a film")
    ran = run_command(
        "run",
        ROOT / "examples" / "clips.yaml",
        *("--out", tmp_path / "out", "--json"),
        *("--set", f"data.with.manifest={media / 'manifest.csv'}"),
        *("--set", "training.standard.epochs=1", "--set", "attacks.pgd.with.steps=1"),
        *("--set", "models={concat: {encoders: [audio, video], fusion: concat}}"),
    )
    assert ran.returncode == 0, ran.stderr
    result = last_json(ran.stdout)
    assert {split: sorted(clips) for split, clips in result["skipped"].items()} == {
        split: sorted(clips) for split, clips in bad.items()
    }
    assert result["cells"][0]["clips"] == 38
    for split, clips in bad.items():
        assert f"skipped {len(clips)} unreadable clip(s) of split '{split}'" in ran.stderr
        for clip in clips:
            assert clip in ran.stderr


def test_too_many_corrupt_clips_end_the_run(tmp_path: Path, run_command) -> None:
    manifest = ["path,label,split"]
    for number in range(20):
        (tmp_path / f"{number}.mp4").write_bytes(b"broken")
        manifest.append(f"{number}.mp4,{'ab'[number % 2]},{'train' if number < 15 else 'test'}")
    (tmp_path / "manifest.csv").write_text("\n".join(manifest) + "\n")
    ran = run_command(
        "run", ROOT / "examples" / "clips.yaml", "--out", tmp_path / "out",
        "--set", f"data.with.manifest={tmp_path / 'manifest.csv'}",
    )  # fmt: skip
    assert ran.returncode == 1
    assert "of the 15 clips of split 'train' cannot be read, more than the allowed share" in ran.stderr
    assert "Traceback" not in ran.stderr

"""Sweeps: which points there are, what they are called, who names them, and what is refused with its place."""

from collections.abc import Callable, Sequence

import pytest

from avrobust_core.spec.cells import expand, modality_of
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.spec.problems import Problem

Load = Callable[..., LoadedSpec]
Check = Callable[..., Sequence[Problem]]


def test_every_combination_of_a_matrix_is_an_entry_of_its_own(good: str, load: Load) -> None:
    spec = load(
        good
        + "sweep:\n- matrix: {training.mixed.epochs: [3, 4], 'training.mixed.augment[1].with.alpha': [0.5, 1e-3]}\n"
    ).spec
    assert list(spec.training) == [
        "standard",
        "mixed-epochs-3-alpha-0_5",
        "mixed-epochs-3-alpha-0_001",
        "mixed-epochs-4-alpha-0_5",
        "mixed-epochs-4-alpha-0_001",
    ]
    point = spec.training["mixed-epochs-4-alpha-0_001"]
    assert point.epochs == 4
    assert point.augment[0].use == "mixup"
    assert point.augment[1].settings == {"alpha": 0.001}
    assert len(expand(spec)) == 10


def test_a_zip_takes_one_value_of_each_and_paths_with_one_last_key_are_told_apart(good: str, load: Load) -> None:
    spec = load(
        good + "sweep:\n- zip: {threats.av.video.eps: [1/255, 2/255], threats.av.audio.eps: [0.1, 0.2]}\n"
        "correlate: [strong/av, fast/a]\n"
    ).spec
    points = ["av-video-eps-1_255-audio-eps-0_1", "av-video-eps-2_255-audio-eps-0_2"]
    assert list(spec.threats) == ["a", *points]
    assert spec.threats[points[1]]["audio"].eps == 0.2
    assert spec.attacks["strong"].threats == points
    assert spec.correlate == [*(f"strong/{point}" for point in points), "fast/a"]


def test_models_of_a_swept_encoder_follow_it_and_it_reads_what_it_read(good: str, load: Load) -> None:
    spec = load(
        good + "sweep:\n- matrix: {encoders.audio.with.channels: [[4], [4, 8]]}\n"
        "- matrix: {encoders.video.use: [cnn, slowfast]}\n"
        "compare: [{models: [audio-only, both]}]\n"
        "exclude: [{model: both, training: mixed}, {model: audio-only, training: 'm*'}]\n"
    ).spec
    assert list(spec.encoders) == ["audio-channels-1", "audio-channels-2", "video-use-cnn", "video-use-slowfast"]
    assert [modality_of(spec, name) for name in spec.encoders] == ["audio", "audio", "video", "video"]
    alone = ["audio-only-channels-1", "audio-only-channels-2"]
    both = [f"both-channels-{number}-use-{name}" for number in (1, 2) for name in ("cnn", "slowfast")]
    assert list(spec.models) == [*alone, *both]
    assert spec.models[both[2]].encoders == ["audio-channels-2", "video-use-cnn"]
    assert spec.compare[0].models == [*alone, *both]
    assert {(cell.model, cell.training) for cell in expand(spec)} == {(name, "standard") for name in spec.models}


def test_a_swept_model_of_a_swept_encoder_has_a_point_for_each_pair(good: str, load: Load) -> None:
    spec = load(
        good + "sweep:\n- matrix: {models.both.fusion.use: [concat]}\n"
        "- matrix: {encoders.audio.with.channels: [[4], [8]]}\n"
        "compare: [{models: [both, audio-only]}]\n"
    ).spec
    assert spec.compare[0].models[:2] == ["both-use-concat-channels-1", "both-use-concat-channels-2"]
    assert len(spec.compare[0].models) == 4


def test_an_encoder_with_one_point_keeps_its_models_and_signs_tell_values_apart(good: str, load: Load) -> None:
    spec = load(
        good + "sweep:\n- matrix: {encoders.audio.with.channels: [[4]]}\n"
        "- matrix: {'training.mixed.augment[1].with.alpha': [1, 1e-7]}\n"
    ).spec
    assert spec.models["audio-only-channels-1"].encoders == ["audio-channels-1"]
    spec = load(good + "sweep:\n- matrix: {attacks.strong.with.mark: ['-1', '1']}\n").spec
    assert list(spec.attacks) == ["fast", "strong-mark-_1", "strong-mark-1"]


@pytest.mark.parametrize(
    ("taken", "sweep"),
    [
        ("  mixed-epochs-3: {epochs: 1}\nthreats:", "training.mixed.epochs: [3]"),
        ("threats:", "encoders.audio.with.channels: [[4]]"),
    ],
)
def test_a_point_never_replaces_another_entry(good: str, problems_of: Check, taken: str, sweep: str) -> None:
    text = good.replace("threats:", taken, 1).replace(
        "training:\n", "  both-channels-1: {encoders: [video]}\ntraining:\n"
    )
    (problem,) = problems_of(f"{text}sweep:\n- matrix: {{{sweep}}}\n")
    assert "a point of the sweep is called" in problem.message
    assert "as an entry of" in problem.message


def test_what_is_resolved_has_the_points_and_no_sweep(good: str, load: Load) -> None:
    loaded = load(
        good + "sweep:\n- matrix: {training.mixed.epochs: [3, 4]}\n", "sweep.0.matrix={training.mixed.epochs: [5, 6]}"
    )
    assert "sweep" not in loaded.resolved()
    again = load(loaded.resolved_yaml())
    assert list(again.spec.training) == ["standard", "mixed-epochs-5", "mixed-epochs-6"]
    assert again.resolved() == loaded.resolved()


@pytest.mark.parametrize(
    ("sweep", "column", "message", "hint"),
    [
        ("matrix: {training.mixd.epochs: [1]}", 12, "there is no 'mixd' in training", "did you mean 'mixed'?"),
        ("matrix: {data.with.classes: [3]}", 12, "not a path into an entry", "encoders, models, training, threats or"),
        ("matrix: {training.mixed: [3]}", 12, "not a path into an entry", "as in training.standard.epochs"),
        ("zip: {training.mixed.epochs: [1, 2], training.mixed.batch_size: [1]}", 3, "lists of 2, 1 values", "equally"),
        ("matrix: {training.mixed.epochs: [1, 1]}", 12, "two points of the sweep are called 'mixed-epochs-1'", "once"),
        ("matrix: {training.mixed.epochs: [1], training.standard.epochs: [2]}", 40, "one sweep is of one entry", "two"),
        ("matrix: {'training.mixed.augment[2].with.alpha': [1]}", 12, "has no item '2'", "0 to 1"),
        ("matrix: {training.mixed.epochs: [one]}", 36, "training.mixed-epochs-one.epochs", ""),
        ("matrix: {training.mixed.epochs: []}", 35, "sweep.0.matrix", ""),
        ("{}", 3, "either `matrix`", ""),
        ("matrix: {training.mixed.epochs: 3}", 35, "sweep.0.matrix", ""),
    ],
)
def test_a_mistake_is_told_with_its_place(
    good: str, problems_of: Check, sweep: str, column: int, message: str, hint: str
) -> None:
    (problem,) = problems_of(f"{good}sweep:\n- {sweep}\n")
    assert message in problem.message
    assert hint in problem.hint
    assert (problem.place.line, problem.place.column) == (len(good.splitlines()) + 2, column)


def test_a_sweep_of_too_many_points_and_one_entry_swept_twice_are_refused(good: str, problems_of: Check) -> None:
    many = ", ".join(map(str, range(1, 40)))
    (problem,) = problems_of(
        f"{good}sweep:\n- matrix: {{training.mixed.epochs: [{many}], training.mixed.batch_size: [{many}]}}\n"
    )
    assert "1521 points" in problem.message
    (problem,) = problems_of(
        f"{good}sweep:\n- matrix: {{training.mixed.epochs: [1]}}\n- matrix: {{training.mixed.batch_size: [1]}}\n"
    )
    assert "training.mixed is swept twice" in problem.message

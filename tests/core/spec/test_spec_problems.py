"""One table of broken specs: each says where, and what, in words a YAML author understands."""
# ruff: noqa: E501 - a row of the table is easier to read in one line

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.spec.nodes import Place
from avrobust_core.spec.problems import Problem, SpecError, in_order

Check = Callable[..., Sequence[Problem]]

BROKEN = [
    # (a part of the good spec, what replaces it with ‸ before the place to be told, parts of what is told)
    ("version: 1", "version: ‸2", ["version: expected 1, found 2"]),
    ("version: 1", "version: ‸true", ["version: expected 1, found true"]),
    ("version: 1\n", "‸", ["'version' is missing"]),
    ("name: study", "name: ‸a b", ["name: 'a b' is not a name"]),
    ("name: study", "name: study\n‸sed: 3", ["unknown field 'sed'", "did you mean 'seed'?"]),
    ("name: study", "name: study\nseed: ‸-1", ["seed: must be at least 0, found -1"]),
    ("name: study", "name: study\nseed: ‸1.5", ["seed: expected a whole number at least 0 or a list of at least 1, each a whole number at least 0, found 1.5"]),
    ("name: study", "name: study\nseed: ‸true", ["each a whole number at least 0, found true"]),
    ("name: study", "name: study\nseed: ‸[]", ["seed: needs at least 1 item, found an empty list"]),
    ("name: study", "name: study\nseed: [0, ‸x]", ["seed.1: expected a whole number at least 0, found \"x\""]),
    ("name: study", "name: study\nseed: [0, ‸true]", ["seed.1: expected a whole number at least 0, found true"]),
    ("name: study", "name: study\nseed: [0, ‸-1]", ["seed.1: must be at least 0, found -1"]),
    ("name: study", "name: study\nseed: [0, 1, ‸0]", ["seed: 0 is listed twice"]),
    ("name: study", "name: study\n‸seed_: 1", ["unknown field 'seed_'", "did you mean 'seed'?"]),
    ("name: study", "name: study\n‸xyz: 1", ["unknown field 'xyz'", "allowed: version, name"]),
    ("{use: toy, with: {classes: 4}}", "‸tyo", ["data: no dataset is named 'tyo'", "did you mean 'toy'?"]),
    ("{use: toy, with: {classes: 4}}", "{‸ues: toy}", ["unknown field 'ues' in data", "did you mean 'use'?"]),
    ("{use: toy, with: {classes: 4}}", "‸{with: {}}", ["'use' is missing in data"]),
    ("{use: toy, with: {classes: 4}}", "{use: ‸[toy]}", ["data.use: expected text, found a list of 1"]),
    ("{use: toy, with: {classes: 4}}", "‸3", ["data: expected a component's name or a map with use, with, found 3"]),
    ("{use: toy, with: {classes: 4}}", "‸pgd", ["no dataset is named 'pgd'", "of another kind: attack"]),
    ("{use: toy, with: {classes: 4}}", "‸files", ["'root' is missing in data.with", "root: The folder."]),
    ("{use: toy, with: {classes: 4}}", "‸{use: files}", ["'root' is missing in data.with"]),
    ("{classes: 4}", "{classes: ‸1}", ["data.with.classes: must be at least 2, found 1"]),
    ("{classes: 4}", "{classes: ‸ten}", ["expected a whole number at least 2, found \"ten\""]),
    ("{classes: 4}", "{classes: ‸true}", ["expected a whole number at least 2, found true"]),
    ("{classes: 4}", "{‸clases: 4}", ["unknown field 'clases' in data.with", "did you mean 'classes'?"]),
    ("{classes: 4}", "{task: ‸mutli}", ["expected 'single' or 'multi'", "did you mean 'multi'?"]),
    ("{classes: 4}", "{sizes: ‸[1]}", ["data.with.sizes: expected a list [a whole number", "found a list of 1"]),
    ("{classes: 4}", "{sizes: [1, ‸x]}", ["data.with.sizes.1: expected a whole number, found \"x\""]),
    ("{classes: 4}", "‸[1]", ["data.with: expected a map, found a list of 1"]),
    ("toy, with: {classes: 4}", "files, with: {root: x, limit: ‸nine}", ["a number or 'none', found \"nine\""]),
    ("toy, with: {classes: 4}", "files, with: {root: x, limit: ‸true}", ["a number or 'none', found true"]),
    ("[8, 16]", "‸[]", ["encoders.audio.with.channels: needs at least 1 item, found an empty list"]),
    ("[8, 16]", "[8, ‸a]", ["encoders.audio.with.channels.1: expected a whole number"]),
    ("{channels: [8, 16]}", "{stages: {s1: {‸with: 3}}}", ["unknown field 'with' in encoders.audio.with.stages.s1"]),
    ("{channels: [8, 16]}", "{stages: {s1: {width: ‸0}}}", ["stages.s1.width: must be at least 1, found 0"]),
    ("{channels: [8, 16]}", "{shape: {width: ‸0}}", ["with.shape.width: must be at least 1, found 0"]),
    ("{channels: [8, 16]}", "{shape: {‸wdith: 3}}", ["unknown field 'wdith'", "did you mean 'width'?"]),
    ("{channels: [8, 16]}", "{shape: [‸a]}", ["with.shape.0: expected a whole number, found \"a\""]),
    ("{channels: [8, 16]}", "{block: {eps: ‸x}}", ["with.block.eps: expected a number, found \"x\""]),
    ("{channels: [8, 16]}", "{block: {width: ‸0}}", ["with.block.width: must be at least 1, found 0"]),
    ("{channels: [8, 16]}", "{block: ‸3}", ["a map with width, strided, a map with eps or null, found 3"]),
    ("{channels: [8, 16]}", "{shape: ‸a}", ["a map with width, strided, a list, each a whole number or null"]),
    ("{channels: [8, 16]}", "{stages: {s1: {width: 2, strided: ‸on}}}", ["true or false, found \"on\""]),
    ("standard: {epochs", "‸a b: {epochs", ["training: 'a b' is not a name"]),
    ("audio: {use: cnn", "audio: {use: cnn, modality: ‸3", ["encoders.audio.modality: expected text or null"]),
    ("[audio]}", "‸[]}", ["models.audio-only.encoders: needs at least 1 item"]),
    ("[audio]}", "[‸audoi]}", ["there is no 'audoi' in encoders", "did you mean 'audio'?"]),
    ("[audio]}", "‸audio}", ["expected a list of at least 1, each text, found \"audio\""]),
    ("both: {encoders: [audio, video], fusion: concat}", "‸both: {encoders: [audio, video]}", ["models.both: 2 encoders need a fusion", "fusion: concat"]),
    ("both: {encoders: [audio, video], fusion: concat}", "‸both: {encoders: [audio, video], fusion: null}", ["models.both: 2 encoders need a fusion"]),
    (", fusion: concat}", ", fusion: ‸sum}", ["no fusion is named 'sum'", "there are: concat"]),
    ("[audio, video]", "[audio, ‸audio]", ["reads the modality 'audio', and it is listed twice"]),
    ("{epochs: 2}", "‸{}", ["'epochs' is missing in training.standard", "Passes over the training split"]),
    ("{epochs: 2}", "{‸epoch: 2}", ["unknown field 'epoch' in training.standard", "did you mean 'epochs'?"]),
    ("{epochs: 2}", "{epochs:‸ }", ["training.standard.epochs: expected a whole number at least 0 and at most 1000000, found nothing"]),
    ("{epochs: 2}", "{epochs: 2, learning_rate: ‸0}", ["learning_rate: must be above 0, found 0"]),
    ("{epochs: 2}", "{epochs: 2, learning_rate: ‸.inf}", ["must be a finite number"]),
    ("{epochs: 2}", "{epochs: 2, warmup: ‸1.5}", ["warmup: must be at most 1, found 1.5"]),
    ("{epochs: 2}", "{epochs: 2, select: ‸bset}", ["expected 'best', 'robust', 'map' or 'last'", "did you mean 'best'?"]),
    ("{epochs: 2}", "‸{epochs: 2, select: robust}", ["training.standard: against: belongs to `select: robust`", "like pgd/both"]),
    ("{epochs: 2}", "‸{epochs: 2, against: strong/av}", ["training.standard: against: belongs to `select: robust`"]),
    ("{epochs: 2}", "{epochs: 2, select: robust, against: ‸strong/a}", ["training.standard.against: no attack runs as 'strong/a'", "did you mean 'strong/av'"]),
    ("{epochs: 2}", "{epochs: 2, select: robust, against: ‸strong}", ["no attack runs as 'strong'"]),
    ("{epochs: 2}", "{epochs: 2, optimizer: ‸adam}", ["training.standard.optimizer: expected 'adamw' or 'sgd'", "did you mean 'adamw'?"]),
    ("{epochs: 2}", "‸{epochs: 2, momentum: 0.9}", ["training.standard: momentum: belongs to `optimizer: sgd`"]),
    ("{epochs: 2}", "‸{epochs: 2, nesterov: true}", ["training.standard: nesterov: belongs to `optimizer: sgd`"]),
    ("{epochs: 2}", "‸{epochs: 2, optimizer: sgd, momentum: 0, nesterov: true}", ["nesterov: needs a momentum above 0"]),
    ("{epochs: 2}", "{epochs: 2, optimizer: sgd, momentum: ‸1}", ["training.standard.momentum: must be below 1, found 1"]),
    ("{epochs: 2}", "‸{epochs: 2, batch_size: 8, accumulate: 16}", ["training.standard: accumulate: a batch of 8 has no 16 parts"]),
    ("{epochs: 2}", "{epochs: 2, ema: ‸1}", ["training.standard.ema: must be below 1, found 1"]),
    ("[mixup, ", "[‸mixpu, ", ["training.mixed.augment.0: no augmentation is named 'mixpu'"]),
    ("{alpha: 0.2}", "{alpha: ‸0}", ["training.mixed.augment.1.with.alpha: must be above 0, found 0"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸ten}}", ["eps: expected a number, a fraction like 8/255, or {snr_db: 30}"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸true}}", ["a fraction like 8/255, or {snr_db: 30}, found true"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸[1]}}", ["8/255, or {snr_db: 30}, found a list of 1"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸1/0}}", ["a fraction like 8/255"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸-1}}", ["threats.a.audio.eps: must be at least 0, found -1"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: {‸snr: 3}}}", ["unknown field 'snr'", "did you mean 'snr_db'?"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸{}}}", ["'snr_db' is missing in threats.a.audio.eps"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: ‸{}}", ["'eps' is missing in threats.a.audio"]),
    ("a: {audio: {eps: 0.1}}", "a: ‸{}", ["threats.a: a threat needs a budget for at least one modality"]),
    ("a: {audio: {eps: 0.1}}", "a: {kind: ‸shred, audio: {eps: 0.1}}", ["threats.a.kind: expected 'separate' or 'shared'", "did you mean 'shared'?"]),
    ("a: {audio: {eps: 0.1}}", "a: ‸{kind: shared, audio: {eps: 0.1}}", ["threats.a: a shared threat is one l2 ball: give audio norm: l2"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: 0.1, ‸spice: input}}", ["unknown field 'spice' in threats.a.audio", "did you mean 'space'?"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: ‸{norm: l0, eps: 1.5}}", ["threats.a.audio: eps: an l0 budget counts samples or frames"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: ‸{eps: 0.1, per: frame}}", ["per, frame_steps and cap belong to l0; the norm here is linf"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: 0.1, frames: ‸[[3, 2]]}}", ["frames [3, 2]: a range needs 0 <= first < end"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: 0.1, time_invariant: ‸1}}", ["time_invariant: expected true or false, found 1"]),
    ("a: {audio: {eps: 0.1}}", "a: {‸audoi: {eps: 0.1}}", ["no encoder reads the modality 'audoi'", "mean 'audio'?"]),
    ("norm: l2", "norm: ‸l3", ["threats.av.video.norm: expected 'linf', 'l2', 'l1' or 'l0', found \"l3\""]),
    ("{norm: l2, eps: 8/255, bounds: [0, 1]", "‸{norm: l2, eps: 8/255, bounds: [1, 0]", ["threats.av.video: bounds [1.0, 0.0]: the first must be below the second"]),
    ("threats: [av]", "threats: [av], curve: [0.5, ‸0]", ["attacks.strong.curve.1: must be at least 1e-06, found 0"]),
    ("threats: [av]", "threats: [av], goal: ‸leastlikely", ["attacks.strong.goal: expected 'untargeted', 'least-likely'", "mean 'least-likely'?"]),
    ("threats: [av]", "threats: [av], front: ‸2", ["attacks.strong.front: must be at least 3, found 2"]),
    ("strong: {use: pgd", "strong: ‸{goal: class, use: pgd", ["attacks.strong: target: belongs to `goal: class`"]),
    ("threats: [av]", "threats: [‸va]", ["there is no 'va' in threats", "did you mean 'a'"]),
    ("threats: [av]", "threats: [‸vv]}\nexclude: [{attack: strong}]\nevaluation: {", ["there is no 'vv' in threats"]),
    ("threats: [av]", "threats: [av, ‸av]", ["'av' is listed twice"]),
    ("threats: [av]", "threats: ‸[]", ["an attack needs at least one threat"]),
    ("fast: fgsm", "fast: {use: fgsm, with: {‸steps: 3}}", ["unknown field 'steps' in attacks.fast.with"]),
    ("fast: fgsm", "fast: ‸twice", ["attack 'twice' is offered by 2 distributions", "acme:twice"]),
    ("fast: fgsm", "fast: ‸nowhere:fgsm", ["no attack is named 'nowhere:fgsm'"]),
    ("fast: fgsm", "‸fast: {use: faulty, with: {size: 3}}", ["configuration of avrobust:faulty could not be checked: KeyError"]),
    ("{steps: 20}", "{steps: ‸13}", ["attacks.strong.with.steps: 13 steps bring bad luck"]),
    ("{steps: 20}", "‸{steps: 1, random_start: false}", ["attacks.strong.with: one step needs a random start"]),
    ("{steps: 20}", "{random_start: ‸on}", ["with.random_start: expected true or false, found \"on\""]),
    ("{steps: 20}", "{random_start: ‸1}", ["with.random_start: expected true or false, found 1"]),
    ("{steps: 20}", "{mark: ‸1}", ["with.mark: expected text, found 1"]),
    ("[accuracy]", "‸accuracy", ["metrics: expected a list, each a component's name or a map with use, with, found \"accuracy\""]),
    ("[accuracy]", "[accuracy, ‸acuracy]", ["metrics.1: no metric is named 'acuracy'"]),
    ("[accuracy]", "[‸3]", ["metrics.0: expected a component's name or a map with use, with, found 3"]),
    ("[accuracy]", "[accuracy]\ncompare: [{models: [audio-only, ‸bith]}]", ["compare.0.models: there is no 'bith' in models", "did you mean 'both'?"]),
    ("[accuracy]", "[accuracy]\ncompare: [{training: [standard, ‸xyz]}]", ["compare.0.training: there is no 'xyz' in training", "the training regimes are: standard, mixed"]),
    ("[accuracy]", "[accuracy]\ncompare: [{models: [both, ‸both]}]", ["compare.0.models: 'both' is listed twice"]),
    ("[accuracy]", "[accuracy]\ncompare: [{models: ‸[both]}]", ["compare.0.models: needs at least 2 items, found a list of 1"]),
    ("[accuracy]", "[accuracy]\ncompare: [‸{}]", ["compare.0: give either `models` or `training`"]),
    ("[accuracy]", "[accuracy]\ncompare: [‸{models: [both, audio-only], training: [standard, mixed]}]", ["compare.0: give either `models` or `training`"]),
    ("[accuracy]", "[accuracy]\ncompare: [{‸model: [both, audio-only]}]", ["unknown field 'model' in compare.0", "did you mean 'models'?"]),
    ("[accuracy]", "[accuracy]\ncompare: ‸both", ["compare: expected a list, each a map with models, training, question, found \"both\""]),
    ("[accuracy]", "[accuracy]\ninclude: [{model: ‸foo*}]", ["include.0.model: 'foo*' matches no name in models"]),
    ("[accuracy]", "[accuracy]\nexclude: [{‸modle: both}]", ["unknown field 'modle'", "did you mean 'model'?"]),
    ("[accuracy]", "[accuracy]\nexclude: [‸{attack: strong, threat: a}]", ["exclude.0: the pattern matches nothing"]),
    ("[accuracy]", "[accuracy]\nexclude: [{threat: ‸vi*}]", ["'vi*' matches no name in threats"]),
    ("[accuracy]", "[accuracy]\n‸exclude: [{model: '*'}]", ["exclude: no cell is left"]),
    ("[accuracy]", "[accuracy]\ninclude: [{model: both}]\n‸exclude: [{training: '*', model: both}]", ["no cell is left"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: ‸x}", ["engine.devices: expected a whole number at least 1 and at most 1024, 'auto' or a list"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: [0, ‸x]}", ["engine.devices.1: expected a whole number at least 0, found \"x\""]),
    ("[accuracy]", "[accuracy]\nengine: {precision: ‸32}", ["expected '32-true', 'bf16-mixed' or '16-mixed', found 32"]),
    ("[accuracy]", "[accuracy]\nevaluation:‸", ["evaluation: expected a map with split, clips", "found nothing"]),
    ("[accuracy]", "[accuracy]\nevaluation: ‸[]", ["evaluation: expected a map with split", "found an empty list"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "parts"), BROKEN, ids=[f"{old}->{new}" for old, new, _ in BROKEN])
def test_a_mistake_is_reported_once_where_it_is(
    old: str, new: str, parts: list[str], good: str, problems_of: Check
) -> None:
    assert good.count(old) == 1
    marked = good.replace(old, new)
    before = marked[: marked.index("‸")].split("\n")
    problems = problems_of(marked.replace("‸", ""))
    assert [(problem.place.line, problem.place.column) for problem in problems] == [(len(before), len(before[-1]) + 1)]
    told = problems[0].render()
    assert told.startswith("s.yaml:")
    for part in parts:
        assert part in told


def test_mistakes_of_all_sorts_are_reported_together_in_the_order_of_the_file(good: str, problems_of: Check) -> None:
    text = good
    for old, new in [
        ("name: study", "name: study\nname: again"),
        ("classes: 4", "clases: 4"),
        ("video: slowfast", "video: slowfats"),
        ("[audio]}", "[audoi]}"),
        ("{epochs: 2}", "{epochs: ten}"),
        ("eps: 0.1", "eps: x"),
        ("threats: [av]", "threats: [vv]"),
        ("[accuracy]", "[accuracy]\nexclude: [{model: foo}]"),
    ]:
        text = text.replace(old, new)
    problems = problems_of(text)
    assert [problem.place.line for problem in problems] == [3, 4, 7, 9, 12, 15, 19, 21]


def test_two_encoders_of_one_modality_cannot_stand_in_one_model(good: str, problems_of: Check) -> None:
    text = good.replace("  video: slowfast", "  video: slowfast\n  ear: {use: cnn, modality: audio}")
    assert not problems_of(text)
    (problem,) = problems_of(text.replace("[audio, video]", "[audio, video, ear]"))
    assert (problem.place.line, problem.place.column) == (10, 35)
    assert problem.message == "models.both.encoders: 'ear' reads the modality 'audio', and 'audio' reads it already"


def test_values_that_the_type_allows_are_not_refused(good: str, problems_of: Check) -> None:
    assert not problems_of(good.replace("{channels: [8, 16]}", "{flag: true, word: on}"))


@pytest.mark.parametrize("section", ["encoders", "threats", "models", "training"])
def test_a_section_of_the_wrong_type_hides_no_names_that_others_use(
    section: str, good: str, problems_of: Check
) -> None:
    text = f"{good}exclude: [{{model: both, training: mixed}}, {{attack: fast, model: audio-only}}]\n"
    assert not problems_of(text)
    (problem,) = problems_of(text, f"{section}=[a]")
    assert problem.message == f"{section}: expected a map, found a list of 1"


def test_two_mistakes_of_one_line_come_from_left_to_right(good: str, problems_of: Check) -> None:
    problems = problems_of(good.replace("{epochs: 2}", "{epochs: true, warmup: x, select: y, colour: z}"))
    assert [problem.message.split(":")[0] for problem in problems] == [
        "training.standard.epochs",
        "training.standard.warmup",
        "training.standard.select",
        "unknown field 'colour' in training.standard",
    ]


def test_the_good_spec_has_no_problem(good: str, problems_of: Check) -> None:
    assert not problems_of(good)


@pytest.mark.parametrize("section", ["encoders", "models", "training", "threats", "attacks", "metrics", "data"])
@pytest.mark.parametrize(
    "value", ["3", "null", "[1, [2]]", "{}", "{1: {}}", "{x: 3}", "{x: [y]}", "{x: {use: {}}}", "x"]
)
def test_a_section_of_any_shape_is_refused_or_read(section: str, value: str, good: str, problems_of: Check) -> None:
    problems = problems_of(good, f"{section}={value}")
    assert bool(problems) == ((section, value) != ("attacks", "{}"))
    assert all(problem.place.line and problem.place.column for problem in problems)


def test_a_component_named_in_a_broken_section_is_still_checked(good: str, problems_of: Check) -> None:
    text = good.replace("{epochs: 2, augment", "{augment").replace("alpha: 0.2", "alpha: x")
    assert [problem.message for problem in problems_of(text)] == [
        "'epochs' is missing in training.mixed",
        'training.mixed.augment.1.with.alpha: expected a number above 0, found "x"',
    ]


def test_an_attack_without_any_threat_in_the_spec_is_refused(good: str, problems_of: Check) -> None:
    lines = [line for line in good.splitlines() if not line.startswith(("threats:", "  a:", "  av:", "  strong:"))]
    (problem,) = problems_of("\n".join(lines))
    assert problem.message == "attacks.fast: there are no threats to attack under"


@pytest.mark.parametrize("section", ["encoders.audio", "models.both"])
def test_classes_of_a_file_of_weights_need_the_file(section: str, good: str, problems_of: Check) -> None:
    said = {
        "encoders.audio": ("channels: [8, 16]}", "channels: [8, 16]}, WITH"),
        "models.both": ("concat}", "concat, WITH}"),
    }
    before, after = said[section]
    (problem,) = problems_of(good.replace(before, after.replace("WITH", "classes: trusted")))
    assert "`classes` says what the classifier in a file of `weights` tells apart" in problem.message
    assert not problems_of(good.replace(before, after.replace("WITH", "classes: names.csv, weights: w.pt")))


def test_a_problem_shows_its_line_a_caret_and_a_hint() -> None:
    problem = Problem(Place("f.yaml", 3, 6, "a:\tb: c"), "wrong", "try harder")
    assert problem.render() == "f.yaml:3:6: wrong\n    a:\tb: c\n      \t  ^\n    try harder"
    assert Problem(Place("f.yaml"), "wrong").render() == "f.yaml: wrong"


def test_the_caret_stands_below_its_column_after_wide_characters() -> None:
    lines = Problem(Place("f", 1, 4, "音é: x"), "wrong").render().splitlines()
    assert lines[2] == "    " + " " * 4 + "^"


def test_problems_are_sorted_by_source_and_position_and_not_repeated() -> None:
    places = {"d": Place("--set x"), "c": Place("b", 1, 1), "b": Place("a", 10, 1), "a": Place("a", 9, 5)}
    problems = [Problem(place, message) for message, place in places.items()]
    assert [item.message for item in in_order([*problems, problems[1]], ["a", "b"])] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is nothing in it"),
        (b"# only a comment\n", "there is nothing in it"),
        (b"- a\n", "a spec is a map"),
        (b"hello", "a spec is a map"),
        ("name: caf\xe9".encode("latin-1"), "byte 0xe9 is not UTF-8"),
        ("version: 1".encode("utf-16"), "this is UTF-16"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(content: bytes, message: str, tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as raised:
        load_spec(file, registry)
    (problem,) = raised.value.problems
    assert message in problem.message
    assert problem.place.line == 1


def test_a_byte_that_is_not_utf_8_is_placed(tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes("a: é\nb: x".encode() + b"\xff")
    with pytest.raises(SpecError) as raised:
        load_spec(file, registry)
    assert [(problem.place.line, problem.place.column) for problem in raised.value.problems] == [(2, 5)]


def test_a_byte_order_mark_is_passed_over(good: str, tmp_path: Path, registry: Registry) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + good.encode())
    assert load_spec(file, registry).spec.name == "study"


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "study.yaml").touch()
    with pytest.raises(SpecError, match=r"stduy.yaml: there is no such file\n +did you mean 'study.yaml'"):
        load_spec(tmp_path / "stduy.yaml", registry)


def test_a_folder_is_refused(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(SpecError, match="this is a folder"):
        load_spec(tmp_path, registry)

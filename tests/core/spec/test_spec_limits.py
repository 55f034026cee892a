"""What no spec may be made of: files without an end, numbers beyond all bounds, text for numbers, absurd sizes."""
# ruff: noqa: E501 - a row of the table is easier to read in one line

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from avrobust_core.errors import ComponentError
from avrobust_core.registry.choices import configure
from avrobust_core.registry.registry import Registry
from avrobust_core.spec import tree
from avrobust_core.spec.files import MAX_BYTES
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.spec.nodes import Place
from avrobust_core.spec.problems import Problem, SpecError

Check = Callable[..., Sequence[Problem]]
Load = Callable[..., LoadedSpec]

BROKEN = [
    # (a part of the good spec, what replaces it with ‸ before the place to be told, parts of what is told)
    ("{epochs: 2}", "{epochs: ‸'6'}", ["epochs: expected a whole number", 'found "6"', "without quotes: 6"]),
    ("{epochs: 2}", "{epochs: 2, warmup: ‸'0.1'}", ["expected a number", "without quotes: 0.1"]),
    ("{epochs: 2}", "{epochs: ‸1e12}", ["epochs: must be at most 1000000"]),
    ("{epochs: 2}", "{epochs: ‸-1}", ["epochs: must be at least 0"]),
    ("{epochs: 2}", "{epochs: ‸.nan}", ["epochs: must be a finite number, found nan"]),
    ("{epochs: 2}", "{epochs: 2, batch_size: ‸1e9}", ["batch_size: must be at most 1000000"]),
    ("{epochs: 2}", "{epochs: 2, learning_rate: ‸1e400}", ["must be a finite number, found inf"]),
    ("{epochs: 2}", "{epochs: 2, gradient_clip: ‸.inf}", ["must be a finite number, found inf"]),
    ("name: study", "name: study\nseed: ‸18446744073709551616", ["seed: a whole number of more than 64 bits"]),
    ("name: study", f"name: study\nseed: ‸[{', '.join(map(str, range(1001)))}]", ["seed: needs at most 1000 items"]),
    ("name: study", f"name: ‸{'x' * 101}", ["a name of 101 characters: at most 100"]),
    ("name: study", "name: ‸..", ["name: '..' is not a name"]),
    ("name: study", "name: ‸a/b", ["name: 'a/b' is not a name"]),
    ("{classes: 4}", "{classes: ‸'4'}", ["data.with.classes: expected a whole number", "without quotes: 4"]),
    ("{classes: 4}", "{classes: ‸1e300}", ["data.with.classes: expected a whole number"]),
    ("{steps: 20}", '{mark: ‸"a\\0b"}', ["attacks.strong.with.mark: text with the control character U+0000"]),
    ("{steps: 20}", '{mark: ‸"\\e[31m"}', ["text with the control character U+001B"]),
    ("{steps: 20}", f"{{mark: ‸{'x' * 5000}}}", ["text with more than 4096 characters"]),
    ("{steps: 20}", '{‸"m\\x07": 1}', ["a key with the control character U+0007 in attacks.strong.with"]),
    ("threats: [av]", "curve: [0.5, ‸1e400]", ["attacks.strong.curve.1: must be a finite number"]),
    ("threats: [av]", "curve: [‸0]", ["curve.0: must be at least 1e-06, found 0"]),
    ("threats: [av]", "curve: [‸-0.5]", ["curve.0: must be at least 1e-06"]),
    ("threats: [av]", "curve: [‸1e300]", ["curve.0: must be at most 1000000"]),
    ("threats: [av]", "curve: [‸'0.5']", ["curve.0: expected a number", "without quotes: 0.5"]),
    ("threats: [av]", "threats: [av, ‸av]", ["attacks.strong.threats: 'av' is listed twice"]),
    ("threats: [av]", "threats: [av], front: ‸1e9", ["front: must be at most 1000"]),
    ("threats: [av]", "threats: [av], goal: class, target: ‸''", ["target: must have at least 1 characters"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸1e300}}", ["eps: must be at most 1000000000000"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: {snr_db: ‸1e9}}}", ["snr_db: must be at most 300"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: {snr_db: ‸'30'}}}", ["snr_db: expected a number", "without quotes: 30"]),
    ("a: {audio: {eps: 0.1}}", f"a: {{audio: {{eps: ‸1/{'9' * 400}}}}}", ["eps: expected a number, a fraction like 8/255"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸'1e999999999'}}", ["eps: expected a number, a fraction like 8/255"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: ‸-8/255}}", ["eps: must be at least 0"]),
    ("a: {audio: {eps: 0.1}}", "a: {audio: {eps: 0.1, bounds: [‸-.inf, 1]}}", ["bounds.0: must be a finite number"]),
    ("[accuracy]", "[accuracy, ‸accuracy]", ["metrics.1: 'accuracy' is listed twice"]),
    ("[accuracy]", "[accuracy, ‸{use: avrobust:accuracy}]", ["metrics.1: 'accuracy' is listed twice"]),
    ("[accuracy]", "[accuracy]\ncorrelate: [fast/a, ‸fast/a]", ["correlate: 'fast/a' is listed twice"]),
    ("[accuracy]", "[accuracy]\ncompare: [{models: [both, ‸both]}]", ["compare.0.models: 'both' is listed twice"]),
    ("[accuracy]", "[accuracy]\nevaluation: {clips: ‸.inf}", ["evaluation.clips: must be a finite number, found inf"]),
    ("[accuracy]", "[accuracy]\nevaluation: {clips: ‸1e12}", ["evaluation.clips: must be at most 1000000000"]),
    ("[accuracy]", "[accuracy]\nevaluation: {resamples: ‸1e12}", ["resamples: must be at most 1000000"]),
    ("[accuracy]", "[accuracy]\nevaluation: {split: ‸''}", ["split: must have at least 1 characters"]),
    ("[accuracy]", "[accuracy]\nengine: {accelerator: ‸cudda}", ["accelerator: expected 'auto', 'cpu', 'cuda' or 'mps'", "did you mean 'cuda'?"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: ‸0}", ["devices: must be at least 1, found 0"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: ‸-1}", ["devices: must be at least 1, found -1"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: ‸[]}", ["devices: needs at least 1 item"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: [1, ‸1]}", ["engine.devices: 1 is listed twice"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: [0, ‸-1]}", ["devices.1: must be at least 0"]),
    ("[accuracy]", "[accuracy]\nengine: {devices: ‸'2'}", ["devices: expected a whole number", "without quotes: 2"]),
    ("[accuracy]", "[accuracy]\nengine: {batch_size: ‸1e9}", ["engine.batch_size: must be at most 1000000"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "parts"), BROKEN, ids=[f"{old}->{new[:40]}" for old, new, _ in BROKEN])
def test_what_means_nothing_is_refused_once_where_it_is(
    old: str, new: str, parts: list[str], good: str, problems_of: Check
) -> None:
    assert good.count(old) == 1
    marked = good.replace(old, new)
    before = marked[: marked.index("‸")].split("\n")
    problems = problems_of(marked.replace("‸", ""))
    assert [(problem.place.line, problem.place.column) for problem in problems] == [(len(before), len(before[-1]) + 1)]
    told = problems[0].render()
    assert max(map(len, told.splitlines())) < 500
    for part in parts:
        assert part in told


def test_a_whole_number_may_be_written_with_a_point_or_an_exponent(good: str, load: Load) -> None:
    epochs = load(good.replace("{epochs: 2}", "{epochs: 1e1, batch_size: 8.0}")).spec.training["standard"]
    assert (epochs.epochs, epochs.batch_size) == (10, 8)


def test_a_number_in_quotes_is_refused_in_python_too(registry: Registry) -> None:
    with pytest.raises(ComponentError, match="steps: expected a whole number at least 1, not '6'"):
        configure(registry, "attack", "pgd", {"steps": "6"})
    with pytest.raises(ComponentError, match="steps: expected a whole number at least 1, not True"):
        configure(registry, "attack", "pgd", {"steps": True})
    assert configure(registry, "attack", "pgd", {"steps": 6}).config.steps == 6  # type: ignore[attr-defined]


# Files
def refused(path: Path, registry: Registry) -> Problem:
    with pytest.raises(SpecError) as raised:
        load_spec(path, registry)
    (problem,) = raised.value.problems
    return problem


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "this is a pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "this is a device, not a file"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "this is a socket, not a file"),
        (lambda path: path.mkdir(), "this is a folder, not a file"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (lambda path: path.write_text("#" * (MAX_BYTES + 1)), "has more than 256 KiB"),
    ],
)
def test_only_a_regular_file_of_bounded_size_is_read(
    make: Callable[[Path], object],
    message: str,
    extended: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    registry: Registry,
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    make(Path("b.yaml"))
    Path("s.yaml").write_text("extends: b.yaml\n")
    problem = refused(Path("s.yaml" if extended else "b.yaml"), registry)
    assert message in problem.message
    assert (problem.place.source, problem.place.line) == (("s.yaml", 1) if extended else ("b.yaml", 0))


def test_a_base_with_a_name_that_no_file_can_have_is_refused(tmp_path: Path, registry: Registry) -> None:
    for name in ("x" * 300 + ".yaml", "'a/' ", "/"):
        (tmp_path / "s.yaml").write_text(f"extends: {name}\n")
        assert refused(tmp_path / "s.yaml", registry).place.line == 1


def test_each_base_is_read_once_however_often_it_is_named(
    good: str, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return original(path)

    original = tree.read_text
    monkeypatch.setattr(tree, "read_text", counting)
    for level in range(29):
        (tmp_path / f"x{level}.yaml").write_text(f"extends: [x{level + 1}.yaml, x{level + 1}.yaml]\n")
    (tmp_path / "x29.yaml").write_text(good)
    assert load_spec(tmp_path / "x0.yaml", registry).spec.name == "study"
    assert len(read) == 30
    (tmp_path / "x29.yaml").write_text("- no spec\n")
    assert "a spec is a map" in refused(tmp_path / "x0.yaml", registry).message
    (tmp_path / "x29.yaml").write_text("extends: x3.yaml\n")
    assert "x3.yaml: extends itself: x3.yaml -> x4.yaml" in refused(tmp_path / "x0.yaml", registry).message


def test_a_chain_of_bases_has_an_end(good: str, tmp_path: Path, registry: Registry) -> None:
    for level in range(150):
        (tmp_path / f"x{level}.yaml").write_text(f"extends: x{level + 1}.yaml\n")
    assert "extends more than 99 files" in refused(tmp_path / "x0.yaml", registry).message
    (tmp_path / "x98.yaml").write_text(good)
    assert load_spec(tmp_path / "x0.yaml", registry).spec.name == "study"


# Sizes
def test_a_path_of_thousands_of_keys_is_refused(good: str, problems_of: Check) -> None:
    (problem,) = problems_of(good, f"{'.'.join(['a'] * 5000)}=1")
    assert problem.message == "a path of 5000 keys: nested more than 64 deep"
    assert max(map(len, problem.render().splitlines())) < 500


def test_a_study_of_too_many_evaluations_is_refused(good: str, problems_of: Check) -> None:
    models = "".join(f"  m{i}: {{encoders: [audio]}}\n" for i in range(500))
    training = "".join(f"  t{i}: {{epochs: 1}}\n" for i in range(500))
    text = good.replace("models:\n", f"models:\n{models}").replace("training:\n", f"training:\n{training}")
    (problem,) = problems_of(text)
    assert problem.message.startswith("too large: 252004 models in training regimes, 4 evaluations of each, 1 seeds")


def test_values_that_several_overrides_add_up_to_are_counted_together(good: str, problems_of: Check) -> None:
    large = f"[&a [{', '.join(['x'] * 99)}], {', '.join(['*a'] * 110)}]"
    (problem,) = problems_of(good, f"include={large}", f"exclude={large}")
    assert problem.message == "more than 20000 values, with all that is extended and set"


def test_many_mistakes_are_counted_and_the_first_are_shown(good: str, load: Load) -> None:
    unknown = "".join(f"k{i}: 1\n" for i in range(300))
    with pytest.raises(SpecError) as raised:
        load(good + unknown)
    assert str(raised.value).endswith("\n300 problems, of which the first 100 are shown")
    assert str(raised.value).count("unknown field") == 100


def test_a_long_line_is_shown_around_its_column_and_nothing_reaches_the_terminal_raw() -> None:
    line = f"{'a' * 1000}X{'b' * 1000}"
    shown = Problem(Place("f\x07", 1, 1001, line), "wrong\x1b[31m", "hint\x9b").render().split("\n")
    assert shown[0] == "f\\x07:1:1001: wrong\\x1b[31m"
    assert shown[1][shown[2].index("^")] == "X"
    assert len(shown[1]) < 250
    assert shown[3] == "    hint\\x9b"

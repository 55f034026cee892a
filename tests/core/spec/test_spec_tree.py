"""`extends` and `--set`: what wins, where it is said to come from, and what is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.spec.nodes import MapNode, find, plain
from avrobust_core.spec.problems import Problem, SpecError
from avrobust_core.spec.tree import apply_override, merge, split_path
from avrobust_core.spec.yaml_reader import read_yaml
from avrobust_core.spec.yaml_writer import write_yaml

Load = Callable[..., LoadedSpec]
Check = Callable[..., Sequence[Problem]]

LEAVES = st.integers() | st.lists(st.integers(), max_size=2) | st.booleans()
MAPS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | LEAVES, max_size=3),
    max_leaves=8,
)


def tree(text: str, source: str = "t") -> MapNode:
    root = read_yaml(text, source).root
    assert isinstance(root, MapNode)
    return root


def set_(text: str, *arguments: str) -> Any:
    root = tree(text)
    for argument in arguments:
        root, problems = apply_override(root, argument)
        assert problems == []
    return plain(root)


def origin(loaded: LoadedSpec, *path: str | int) -> tuple[str, int, int]:
    node = find(loaded.tree, *path)
    assert node is not None
    return node.place.source, node.place.line, node.place.column


@given(MAPS, MAPS)
def test_maps_merge_and_anything_else_replaces(base: Any, over: Any) -> None:
    def expected(low: Any, high: Any) -> Any:
        if isinstance(low, dict) and isinstance(high, dict):
            return {k: expected(low[k], high[k]) if k in low and k in high else {**low, **high}[k] for k in low | high}
        return high

    merged = merge(tree(write_yaml({"m": base})), tree(write_yaml({"m": over})))
    assert plain(merged) == {"m": expected(base, over)}


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ("{use: other}", {"use": "other"}),
        ("{use: other, with: {y: 2}}", {"use": "other", "with": {"y": 2}}),
        ("{use: some, with: {y: 2}}", {"use": "some", "with": {"x": 1, "y": 2}}),
        ("{use: 'dist:some', with: {y: 2}}", {"use": "dist:some", "with": {"x": 1, "y": 2}}),
        ("{with: {y: 2}}", {"use": "some", "with": {"x": 1, "y": 2}}),
    ],
)
def test_another_component_does_not_inherit_the_configuration(over: str, expected: dict[str, Any]) -> None:
    merged = merge(tree("data: {use: some, with: {x: 1}}"), tree(f"data: {over}"))
    assert plain(merged) == {"data": expected}


def test_a_spec_extends_another_and_wins(good: str, load: Load) -> None:
    loaded = load(
        "extends: base.yaml\nname: mine\ntraining: {standard: {epochs: 9}}\nmetrics: []\n"
        "threats:\n  av:\n    video: {eps: 1/255}\n",
        base=good,
    )
    spec = loaded.spec
    assert (spec.name, spec.training["standard"].epochs, list(spec.training)) == ("mine", 9, ["standard", "mixed"])
    assert spec.metrics == []
    budget = spec.threats["av"]["video"]
    assert (budget.eps, budget.norm, budget.bounds) == (1 / 255, "l2", (0.0, 1.0))
    assert origin(loaded, "name") == ("s.yaml", 2, 7)
    assert origin(loaded, "threats", "av", "video", "eps") == ("s.yaml", 7, 18)
    assert origin(loaded, "threats", "av", "video", "norm") == ("base.yaml", 15, 50)


def test_later_bases_win_over_earlier_ones_and_the_file_over_both(good: str, load: Load) -> None:
    loaded = load(
        "extends: [base.yaml, more.yaml]\nname: mine\n",
        base=good,
        more="name: more\nseed: 5\ntraining: {standard: {epochs: 7}}\n",
    )
    assert (loaded.spec.name, loaded.spec.seed, loaded.spec.training["standard"].epochs) == ("mine", 5, 7)


def test_the_same_base_may_be_reached_twice(good: str, load: Load) -> None:
    loaded = load("extends: [left.yaml, right.yaml]", base=good, left="extends: base.yaml", right="extends: base.yaml")
    assert loaded.spec.name == "study"


def test_bases_are_found_beside_the_file_that_names_them(good: str, tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text(good)
    (tmp_path / "sub" / "middle.yaml").write_text("extends: ../base.yaml\nseed: 2\n")
    (tmp_path / "top.yaml").write_text("extends: sub/middle.yaml\n")
    loaded = load_spec(tmp_path / "top.yaml", registry)
    assert loaded.spec.seed == 2
    assert origin(loaded, "name")[0] == str(tmp_path / "base.yaml")


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ({"base": "extends: s.yaml"}, ("base.yaml", 1), "s.yaml: extends itself: s.yaml -> base.yaml -> s.yaml"),
        ({"base": "extends: base.yaml"}, ("base.yaml", 1), "base.yaml: extends itself: base.yaml -> base.yaml"),
        ({}, ("s.yaml", 2), "base.yaml: there is no such file"),
        ({"base": "- 1"}, ("base.yaml", 1), "a spec is a map"),
        ({"base": "a: ["}, ("base.yaml", 1), "the text ends too soon"),
        ({"base": "extends: {a: b}"}, ("base.yaml", 1), "extends: expected the path of a file"),
        ({"base": "extends: [3]"}, ("base.yaml", 1), "extends: expected the path of a file"),
    ],
)
def test_a_base_that_cannot_be_read_is_refused(
    files: dict[str, str], place: tuple[str, int], message: str, problems_of: Check
) -> None:
    (problem,) = problems_of("name: x\nextends: base.yaml", **files)
    assert (problem.place.source, problem.place.line) == place
    assert message in problem.message


def test_what_is_dropped_from_the_bases_is_gone_or_written_anew(good: str, load: Load) -> None:
    loaded = load(
        "extends: base.yaml\ndrop: [training.mixed, attacks.strong.with, threats.a]\n"
        "threats: {a: {video: {eps: 0.5}}}\n",
        base=good,
    )
    assert list(loaded.spec.training) == ["standard"]
    assert "with" not in plain(loaded.tree.children["attacks"])["strong"]
    assert plain(loaded.tree.children["threats"])["a"] == {"video": {"eps": 0.5}}


def test_each_file_drops_from_its_own_bases(good: str, load: Load) -> None:
    middle = "extends: base.yaml\ndrop: attacks.fast"
    assert list(load("extends: middle.yaml", base=good, middle=middle).spec.attacks) == ["strong"]
    assert list(load("extends: [middle.yaml, base.yaml]", base=good, middle=middle).spec.attacks) == ["strong", "fast"]


@pytest.mark.parametrize(
    ("drop", "column", "message", "hint"),
    [
        ("[seed, training.mixd]", 8, "drop: there is no 'seed' in the files that are extended", ""),
        ("[training.mixd]", 8, "drop: there is no 'mixd' in training", "did you mean 'mixed'?"),
        ("metrics.0", 7, "drop: there is no '0' in metrics", "metrics is not a map: write it anew"),
        ("[training..mixed]", 8, "drop: 'training..mixed' is not a path", "as in training.mixup"),
        ("[1]", 8, "drop: expected a list of paths", ""),
        ("{training: mixed}", 7, "drop: expected a list of paths", ""),
    ],
)
def test_what_cannot_be_dropped_is_refused_at_its_place(
    drop: str, column: int, message: str, hint: str, good: str, problems_of: Check
) -> None:
    first, *_ = problems_of(f"extends: base.yaml\ndrop: {drop}", base=good)
    assert message in first.message
    assert hint in first.hint
    assert (first.place.source, first.place.line, first.place.column) == ("s.yaml", 2, column)


def test_what_still_names_a_dropped_entry_is_refused(good: str, problems_of: Check) -> None:
    (problem,) = problems_of("extends: base.yaml\ndrop: threats.av", base=good)
    assert problem.message == "attacks.strong.threats: there is no 'av' in threats"
    assert problem.place.source == "base.yaml"


def test_nothing_is_dropped_where_nothing_is_extended(good: str, problems_of: Check) -> None:
    (problem,) = problems_of(f"{good}drop: [training.mixed]")
    assert problem.message.startswith("drop: there is no `extends`")


def test_mistakes_in_a_base_and_in_the_file_are_reported_together(good: str, problems_of: Check) -> None:
    problems = problems_of(
        "extends: base.yaml\nsede: 3\ntraining: {standard: {epoch: 1}}\n",
        base=good.replace("classes: 4", "classes: 1").replace("slowfast", "slow"),
    )
    assert [(problem.place.source, problem.place.line) for problem in problems] == [
        ("s.yaml", 2),
        ("s.yaml", 3),
        ("base.yaml", 3),
        ("base.yaml", 6),
    ]


def test_a_mistake_of_two_files_is_told_of_the_one_that_wins(good: str, problems_of: Check) -> None:
    base = good.replace("name: study", "name: study\nsede: 1").replace("{epochs: 2}", "{warmup: 0}")
    problems = problems_of("extends: base.yaml\ntraining: {standard: {select: last}}\nsede: 2", base=base)
    assert [(problem.place.source, problem.place.line, problem.place.column) for problem in problems] == [
        ("s.yaml", 2, 22),
        ("s.yaml", 3, 1),
    ]


def test_a_bare_name_takes_a_configuration_from_an_extending_file_and_from_set(good: str, load: Load) -> None:
    text = "extends: base.yaml\nattacks: {fast: {threats: [a]}}"
    loaded = load(text, "metrics.0.with={}", "models.both.fusion.use=avrobust:concat", base=good)
    assert (loaded.spec.attacks["fast"].use, loaded.spec.attacks["fast"].threats) == ("fgsm", ["a"])
    assert loaded.spec.metrics[0].use == "accuracy"


def test_set_replaces_values_after_the_files_are_merged(good: str, load: Load) -> None:
    loaded = load(
        "extends: base.yaml\nseed: 1",
        "seed=2",
        "training.standard.epochs=0x10",
        "encoders.audio.with.channels[1]=32",
        "threats.a.audio.eps={snr_db: 1e1}",
        "evaluation.clips=7",
        "seed=3",
        base=good,
    )
    assert (loaded.spec.seed, loaded.spec.training["standard"].epochs) == (3, 16)
    assert loaded.spec.encoders["audio"].settings["channels"] == [8, 32]
    assert loaded.spec.threats["a"]["audio"].model_dump()["eps"] == {"snr_db": 10.0}
    assert loaded.spec.evaluation.clips == 7
    assert origin(loaded, "training", "standard", "epochs") == ("--set training.standard.epochs=0x10", 1, 26)


@pytest.mark.parametrize(
    ("text", "argument", "result"),
    [
        ("a: {b: 1}", "a.b=2", {"a": {"b": 2}}),
        ("a: {b: 1}", "a={c: x}", {"a": {"c": "x"}}),
        ("a: {b: 1}", "a.c.d=[1, 'x']", {"a": {"b": 1, "c": {"d": [1, "x"]}}}),
        ("a: [1, {b: 2}]", "a.1.b=on", {"a": [1, {"b": "on"}]}),
        ("a: [1, {b: 2}]", "a[1].b=null", {"a": [1, {"b": None}]}),
        ("a:", "a.b=x=y", {"a": {"b": "x=y"}}),
        ("a: 1", "b= 8/255 ", {"a": 1, "b": "8/255"}),
        ("data: toy", "data.with.classes=3", {"data": {"use": "toy", "with": {"classes": 3}}}),
        ("a: 1", 'a=""', {"a": ""}),
        ("a: 1", "a='#1'", {"a": "#1"}),
        ("a: 1", "a=/x/a b #1/m.csv", {"a": "/x/a b #1/m.csv"}),
        ("a: 1", "a=#1", {"a": "#1"}),
        ("a: 1", "a=[x #1, '#2']", {"a": ["x #1", "#2"]}),
        ("a: 1", "a={k #1: /x #2}", {"a": {"k #1": "/x #2"}}),
        ("a: 1", "a=b: /x #2", {"a": {"b": "/x #2"}}),
        ("a: 1", "a=3 # three", {"a": "3 # three"}),
        ("a: 1", "a=\ue000 #\ue001", {"a": "\ue000 #\ue001"}),
    ],
)
def test_set_reads_its_value_as_yaml_and_makes_missing_keys(text: str, argument: str, result: object) -> None:
    assert set_(text, argument) == result


@pytest.mark.parametrize(
    ("argument", "column", "message"),
    [
        ("training", 1, "not of the form path=value"),
        ("=3", 1, "not of the form path=value"),
        ("a..b=3", 1, "not of the form path=value"),
        ("seed=", 1, "there is no value"),
        ("seed=# nothing", 6, 'found "# nothing"'),
        ("extends=x.yaml", 1, "`extends` cannot be set"),
        ("drop=training.mixed", 1, "`drop` cannot be set"),
        ("name.x=3", 6, "name is a single value, and has no 'x'"),
        ("metrics.1=map", 9, "metrics is a list, and has no item '1'"),
        ("metrics[1].use=map", 9, "metrics is a list, and has no item '1'"),
        ("metrics.first=map", 9, "metrics is a list, and has no item 'first'"),
        ("metrics.-1=map", 9, "metrics is a list, and has no item '-1'"),
        ("training.standard.epochs=ten", 26, "training.standard.epochs: expected a whole number"),
        ("training.standard.epoch=3", 19, "unknown field 'epoch' in training.standard"),
        ("trainig.standard.epochs=3", 1, "unknown field 'trainig'"),
        ("data.with={classes: 3, classes: 4}", 24, "duplicate key 'classes'"),
        ("data.with={classes: 3", 22, "the map is not closed"),
        ("data.use=tyo", 10, "no dataset is named 'tyo'"),
        ("models.both.encoders.1=vidio", 24, "there is no 'vidio' in encoders"),
    ],
)
def test_a_wrong_override_is_refused_at_its_place(
    argument: str, column: int, message: str, good: str, problems_of: Check
) -> None:
    (problem,) = problems_of(good, argument)
    assert message in problem.message
    assert (problem.place.source, problem.place.line, problem.place.column) == (f"--set {argument}", 1, column)
    assert problem.place.text == argument


def test_mistakes_in_the_file_come_before_those_in_overrides(good: str, problems_of: Check) -> None:
    problems = problems_of(good.replace("[accuracy]", "[acc]"), "seed=x", "name=a b")
    assert [problem.place.source for problem in problems] == ["s.yaml", "--set seed=x", "--set name=a b"]


def test_a_tree_is_not_changed_by_an_override() -> None:
    root = tree("a: {b: [1, 2]}")
    changed, _ = apply_override(root, "a.b.0=9")
    assert plain(root) == {"a": {"b": [1, 2]}}
    assert plain(changed) == {"a": {"b": [9, 2]}}


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("a", ("a",)),
        ("a.b.0", ("a", "b", "0")),
        ("a[0][12].b", ("a", "0", "12", "b")),
        ("", ()),
        ("a.", ()),
        ("[0]", ()),
    ],
)
def test_a_path_is_split_at_dots_and_indices(written: str, steps: tuple[str, ...]) -> None:
    assert split_path(written) == steps


def test_a_spec_error_tells_every_problem_and_their_number(good: str, load: Load) -> None:
    with pytest.raises(SpecError) as raised:
        load(good, "seed=x", "name=a b")
    assert str(raised.value).endswith("2 problems")
    assert str(raised.value).count("\n    ") == 4

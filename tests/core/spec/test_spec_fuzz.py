"""Specs that were changed at random: each is refused in words or means what it says; no traceback, no hang."""
# ruff: noqa: E501 - the tables are easier to read in long lines

import gc
import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avrobust_core.errors import AvrobustError
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.explaining import explain
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.spec.nodes import Path as TreePath
from avrobust_core.spec.nodes import ScalarNode, nodes, plain
from avrobust_core.spec.problems import SpecError
from avrobust_core.spec.yaml_reader import read_yaml
from avrobust_core.spec.yaml_writer import write_yaml
from avrobust_core.study.building import Builder
from avrobust_core.study.plan import plan

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
INNER = """\
version: 1
name: inner
seed: [0, 1]
data: {use: toy-av, with: {classes: 4}}
encoders: {audio: {use: cnn, with: {channels: [4, 8]}}, eye: {use: slowfast-tiny, modality: video}}
models: {a: {encoders: [audio]}, both: {encoders: [audio, eye], fusion: {use: gated}}}
training:
  plain: {epochs: 2, batch_size: 8, warmup: 0.1, gradient_clip: null}
  hard:
    epochs: 1
    augment: [mixup, {use: adversarial, with: {threat: {audio: {eps: 0.1}}, attack: {use: pgd, with: {steps: 3}}}}]
threats:
  a: {audio: {norm: l0, eps: 5, per: frame, cap: 1/4}}
  av: {kind: shared, audio: {norm: l2, eps: {snr_db: 30}}, video: {norm: l2, eps: 8/255, bounds: [0, 1]}}
attacks:
  all: {use: ensemble, with: {members: [fgsm, {use: pgd, with: {steps: 3}}]}, curve: [0.5, 2], threats: [av]}
  cw: {use: cw, front: 3, threats: [av]}
metrics: [accuracy, map]
correlate: [all/av]
compare: [{models: [a, both], question: "which?"}]
exclude: [{model: a, attack: cw}]
evaluation: {split: test, clips: 7, confidence: 0.9, resamples: 200}
engine: {accelerator: cpu, devices: 2, batch_size: 4, workers: 0}
audit: {clips: 16}
"""

RAW = [
    *("null", "~", "", "''", "true", "on", "0", "-1", "1", "1.0", "1.5", "-0.0", "1e3", "1e12", "1e400", "1e-400", ".inf"),
    *("-.inf", ".nan", "NaN", "'6'", "'true'", "99999999999999999999", "9" * 5000, "0x1F", "1_000", "2024-01-31"),
    *("8/255", "8/0", "-1/2", "'1e999999999'", f"1/{'9' * 400}", f"{'9' * 400}/1", "1/3/5", "½", "٣"),
    *("[]", "{}", "[[]]", "[{}]", "[null]", "[x, x]", "[1, 1]", "{x: y}", "{use: pgd}", "{use: }", "{use: {}}", "{with: {}}"),
    *("pgd", "pgdd", "avrobust:pgd", "acme:pgd", ":", "a:b:c", "ensemble", "{use: ensemble, with: {members: [{use: ensemble}]}}"),
    *("'#'", "a #b", "*x", "&x [*x]", "&x y", "!!str x", "!!python/name:os.system x", "<<", "? a", "- a", "a: b", "|", ">-"),
    *("../x", "/", "a/b", ".", "..", "'\\'", '"\\0"', '"\\e[31m"', '"\\ud800"', '"\\u202e"', '"\\x85"', "é", "\U0001f600"),
    *("x" * 300, "x" * 5000, "[" * 100, f"{'[' * 60}{']' * 60}", f"[{'x, ' * 3000}]", f"[{'1, ' * 30000}]"),
    *("{snr_db: 1e9}", "{snr_db: .inf}", "{eps: 1e300}", "{audio: {eps: 1}}", "{video: {eps: 1}}", "[[0, 4], [8, 12]]"),
    *("[[9223372036854775807, 9223372036854775808]]", "*", "[a-", "[!]", "auto", "last", "class", "s.yaml", "[s.yaml, s.yaml]"),
]  # fmt: skip
"""YAML that stands, as it is, in place of a value."""
KEYS = [
    "use",
    "with",
    "x",
    "extends",
    "drop",
    "epochs",
    "threats",
    "1",
    "null",
    "<<",
    "a b",
    "eps",
    "models",
    "audio",
    "kind",
    "",
]
TEXT = st.text(st.sampled_from("ab:-[]{}#&*!|>'\"%@`,?.~/ \n\t\\0159eE+_\x00é\ufeff\u2028"), min_size=1, max_size=4)
FRACTION = st.floats(0, 1, exclude_max=True)
CHANGE = st.one_of(
    st.tuples(st.sampled_from(["replace", "add"]), FRACTION, st.sampled_from(RAW), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["delete", "rename", "repeat", "wrap"]), FRACTION, st.just(""), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["cut", "double", "insert"]), FRACTION, TEXT, st.just("")),
)
PATHS = [
    *(
        "seed",
        "training.hard.epochs",
        "attacks.all.with.members.1.with.steps",
        "attacks[all]",
        "data.with",
        "metrics.0",
    ),
    *("models.both.encoders[1]", "threats.av.video.eps", "engine.devices", "x.y.z", "a..b", "", ".", "[0]", "extends"),
    *(".".join("abc" * 1700), "training.hard.augment.1.with.attack", "include"),
]
OVERRIDES = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(["=", "=", "=", "", "=="]), st.sampled_from(RAW) | TEXT).map(
        "".join
    ),
    max_size=2,
)
CPU_SECONDS, SECONDS = 2.0, 60.0
"""The first of this thread's computing, so that what else runs makes no difference; the second for what waits for
ever. The longest of the 2,000 takes .3 s of an idle core."""


class Hang(BaseException):
    """Not an Exception: nothing on the way may take it for a plugin's fault."""


@contextmanager
def limited() -> Iterator[None]:
    begun = time.thread_time()

    def give_up(number: int, frame: FrameType | None) -> None:
        left = CPU_SECONDS - (time.thread_time() - begun)
        if number == signal.SIGPROF and left > 0:  # the timer counts the whole process
            signal.setitimer(signal.ITIMER_PROF, left)
            return
        raise Hang("took more than two seconds of computing, or a minute")

    kinds = [(signal.SIGPROF, signal.ITIMER_PROF, CPU_SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, SECONDS)]
    before = [(number, signal.signal(number, give_up)) for number, _, _ in kinds]
    for _, timer, seconds in kinds:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for _, timer, _ in kinds:
            signal.setitimer(timer, 0)
        for number, handler in before:
            signal.signal(number, handler)


def changed(text: str, changes: Sequence[tuple[str, float, str, str]]) -> str:
    """The text after changes to its structure, and then to its letters."""
    root = read_yaml(text, "t").root
    assert root is not None
    data, raws = plain(root), []
    for kind, where, raw, key in changes:
        if kind in ("replace", "add", "delete", "rename", "repeat", "wrap"):
            raws.append(raw)
            _change(data, kind, where, f"@{len(raws) - 1}@", key)
    text = write_yaml(data)
    for number, raw in enumerate(raws):
        text = text.replace(f"'@{number}@'", raw)
    for kind, where, raw, _ in changes:
        position = int(where * len(text))
        if kind == "cut":
            text = text[:position] + text[position + 3 * len(raw) :]
        elif kind == "double":
            text = text[:position] + text[position : position + 40] + text[position:]
        elif kind == "insert":
            text = text[:position] + raw + text[position:]
    return text


def _change(data: Any, kind: str, where: float, mark: str, key: str) -> None:
    places = list(_places(data))
    if not places:
        return
    holder, at = places[int(where * len(places))]
    match kind:
        case "replace":
            holder[at] = mark
        case "wrap":
            holder[at] = [holder[at]]
        case "delete":
            del holder[at]
        case "repeat" if isinstance(holder, list):
            holder.append(holder[at])
        case "add" if isinstance(holder, dict):
            holder[key] = mark
        case "rename" if isinstance(holder, dict):
            holder[key if where < 0.5 else f"{at}x"] = holder.pop(at)


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for at, item in list(data.items() if isinstance(data, dict) else enumerate(data)):
        yield data, at
        if isinstance(item, dict | list):
            yield from _places(item)


class Prints:
    """Stands for a data set: planning asks for no more."""

    def fingerprint(self) -> str:
        return "the data"


def planned(loaded: LoadedSpec, registry: Registry) -> Any:
    """The ids of all cells and evaluations; None where weights are to be read that are not there."""
    try:
        cells = plan(Builder(loaded.spec, registry), Prints(), Path("run"))  # type: ignore[arg-type]
    except AvrobustError:
        return None
    return [(cell.id, cell.label, [(e.folder, e.label) for e in cell.evaluations]) for cell in cells]


def check_meaning(loaded: LoadedSpec, registry: Registry, again: Path) -> None:
    """What is accepted says what was written, and means the same when its resolution is read."""
    resolved = loaded.resolved()
    json.dumps(resolved, allow_nan=False)
    for path, scalar in nodes(loaded.tree):
        if not isinstance(scalar, ScalarNode):
            continue
        given, meant = scalar.value, _at(resolved, path)
        assert not isinstance(given, float) or math.isfinite(given)
        assert not isinstance(given, int) or abs(given) < 2**63
        if isinstance(given, bool) or isinstance(meant, bool):
            assert given is meant or meant is None, path
        elif isinstance(given, str) and isinstance(meant, int | float):
            assert path[-1] in ("eps", "cap"), path
            assert "/" in given or given.strip().replace(".", "", 1).isdigit(), path
    again.write_text(write_yaml(resolved), encoding="utf-8")
    second = load_spec(again, registry)
    assert second.resolved() == resolved
    assert planned(second, registry) == planned(loaded, registry)
    for path in ("", "training", "attacks", "data.with"):
        explain(loaded, path, registry)


def _at(data: Any, path: TreePath) -> Any:
    """What stands at a path of the resolved spec; a component that was named alone stands under `use`."""
    for key in path:
        if not isinstance(data, dict | list):
            return None
        data = data.get(key) if isinstance(data, dict) else data[int(key)]
    return data


@pytest.fixture(scope="module")
def installed() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz")
    for path in EXAMPLES:  # some extend others
        (made / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return made


def loading(
    file: Path, registry: Registry, overrides: Sequence[str]
) -> tuple[LoadedSpec, None] | tuple[None, SpecError]:
    with limited():
        try:
            return load_spec(file, registry, overrides), None
        except SpecError as error:
            return None, error


def attempt(text: str, overrides: Sequence[str], registry: Registry, folder: Path) -> bool:
    """Whether the spec is accepted."""
    file = folder / "s.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        loaded, refused = loading(file, registry, overrides)
    except Hang:  # a neighbour that shares the core makes computing itself slower, but seldom twice
        gc.collect()  # of all that the tests have left: else it may fall into either try
        loaded, refused = loading(file, registry, overrides)
    if loaded is not None:
        check_meaning(loaded, registry, folder / "again.yaml")
        return True
    assert refused is not None
    said = str(refused)
    assert all(character.isprintable() or character in "\n\t" for character in said)
    assert max(map(len, said.splitlines())) <= 1500
    assert all("is a fault of the plugin" not in problem.hint for problem in refused.problems), said
    return False


CASES = st.tuples(
    st.sampled_from([INNER, INNER, *(path.read_text(encoding="utf-8") for path in EXAMPLES)]),
    st.lists(CHANGE, max_size=3),
    OVERRIDES,
)
OPTIONS = settings(derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(OPTIONS, max_examples=100)
@given(CASES)
def test_a_changed_spec_is_refused_in_words_or_means_what_it_says(
    installed: Registry, folder: Path, case: tuple[str, list[Any], list[str]]
) -> None:
    text, changes, overrides = case
    attempt(changed(text, changes), overrides, installed, folder)


@pytest.mark.slow
@settings(OPTIONS, max_examples=2000)
@given(CASES)
def test_thousands_of_changed_specs_are_refused_in_words_or_mean_what_they_say(
    installed: Registry, folder: Path, case: tuple[str, list[Any], list[str]]
) -> None:
    text, changes, overrides = case
    attempt(changed(text, changes), overrides, installed, folder)


@pytest.mark.parametrize("text", [INNER, *(path.read_text(encoding="utf-8") for path in EXAMPLES)])
def test_an_unchanged_spec_is_accepted(text: str, installed: Registry, folder: Path) -> None:
    assert attempt(changed(text, []), [], installed, folder)


@pytest.mark.slow
@pytest.mark.parametrize("raw", [raw for raw in RAW if len(raw) < 2000])
@pytest.mark.parametrize(
    "place", ["epochs: 1\n", "eps: 8/255", "curve: [0.5", "steps: 3", "clips: 7", "devices: 2", "split: test", "[mixup"]
)
def test_a_value_of_any_sort_stands_anywhere_or_is_refused(
    place: str, raw: str, installed: Registry, folder: Path
) -> None:
    assert INNER.count(place) >= 1
    head = place[: place.index(" ") + 1] if " " in place else "["
    attempt(INNER.replace(place, head + raw + ("\n" if place.endswith("\n") else ""), 1), [], installed, folder)

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core.spec.nodes import ListNode, MapNode, find, plain
from avrobust_core.spec.yaml_reader import MAX_NODES, read_yaml, scalar_value
from avrobust_core.spec.yaml_writer import write_yaml

# What YAML lets a document hold outside of escapes (YAML 1.2.2, section 5.1).
TEXT = st.text(
    st.characters(exclude_categories=["Cs"]).filter(lambda c: c == "\x85" or not (0x7F <= ord(c) < 0xA0)), max_size=12
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


def value(text: str) -> Any:
    reading = read_yaml(text, "t")
    assert reading.problems == ()
    assert reading.root is not None
    return plain(reading.root)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types: 1 is not True, nor 1.0."""
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return left.hex() == right.hex()
    return type(left) is type(right) and left == right


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("+12e03", 12000.0),
        (".5", 0.5),
        ("2.", 2.0),
        ("-0.0", -0.0),
        ("1_000", "1_000"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("-19", -19),
        ("-0x1F", "-0x1F"),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2024-01-31", "2024-01-31"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRue", "tRue"),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("nUll", "nUll"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("inf", "inf"),
        ("nan", "nan"),
        ("8/255", "8/255"),
        ("e5", "e5"),
        (".", "."),
        ("-", "-"),
        ("=", "="),
        ("<<", "<<"),
        ("١٢", "١٢"),
    ],
)
def test_unquoted_scalars_follow_the_core_schema_of_yaml_1_2(text: str, meant: object) -> None:
    assert same(scalar_value(text), meant)
    if text != "-":
        assert same(value(f"k: {text}"), {"k": meant})
        assert same(value(f'k: "{text}"'), {"k": text})


def test_nan_is_a_number() -> None:
    assert math.isnan(value("k: .nan")["k"])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("{<<: *x, d: 2}", {"b": 1, "c": [1], "d": 2}),
        ("{b: 2, <<: *x}", {"b": 2, "c": [1]}),
        ("{<<: *x, c: [2]}", {"b": 1, "c": [2]}),
        ("{<<: [{b: 3, d: 3}, *x]}", {"b": 3, "c": [1], "d": 3}),
        ("{<<: {<<: *x, d: 3}}", {"b": 1, "c": [1], "d": 3}),
        ("{<<: []}", {}),
        ("{'<<': *x}", {"<<": {"b": 1, "c": [1]}}),
    ],
)
def test_a_merge_key_gives_what_a_map_does_not_say_itself(text: str, meant: object) -> None:
    assert value(f"a: &x {{b: 1, c: [1]}}\nk: {text}")["k"] == meant


def test_what_is_merged_keeps_its_place() -> None:
    root = read_yaml("a: &x\n  b: 1\nk:\n  <<: *x\n  d: 2", "t").root
    merged = find(root, "k")
    assert isinstance(merged, MapNode)
    assert [(key, place.line, place.column) for key, place in merged.keys.items()] == [("b", 2, 3), ("d", 5, 3)]


def test_an_entry_without_a_value_is_null() -> None:
    assert value("a:\nb: 1") == {"a": None, "b": 1}


@given(DATA)
def test_json_reads_as_json_does(data: Any) -> None:
    text = json.dumps(data)
    if not any(special in text for special in ("\x7f", "Infinity")):  # the one YAML refuses, the other is no JSON
        assert same(value(text), json.loads(text))


@given(DATA)
def test_what_is_written_reads_back_the_same(data: Any) -> None:
    assert same(value(write_yaml(data)), data)


@pytest.mark.parametrize("text", ["1e-3", "0o17", "on", "017", "1:30", "2024-01-31", "", "null", "~", "<<"])
def test_text_that_looks_like_something_else_is_written_in_quotes(text: str) -> None:
    assert write_yaml({"k": text}).count("'") == 2
    assert value(write_yaml({"k": text, "l": [text]})) == {"k": text, "l": [text]}


@given(st.text(st.sampled_from("ab:-[]{}#&*!|>'\"%@`,? \n\t\\xuU0f~\x00é\u2028"), max_size=30))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    reading = read_yaml(text, "t")
    assert (reading.root is None) <= bool(reading.problems)
    assert all(problem.place.line >= 1 and problem.place.column >= 1 for problem in reading.problems)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1), "duplicate key 'a'"),
        ("a: {b: 1, b: 2}", (1, 11), "duplicate key 'b'"),
        ("a: !!python/object:os.system x", (1, 4), "the tag !!python/object:os.system is not allowed"),
        ("a: !mine [1]", (1, 4), "the tag !mine is not allowed"),
        ("a: !!str 1", (1, 4), "the tag !!str is not allowed"),
        ("a: ! 1", (1, 4), "the tag ! is not allowed"),
        ("1: x", (1, 1), "the key 1 is not text"),
        ("true: x", (1, 1), "the key true is not text"),
        ("~: x", (1, 1), "the key ~ is not text"),
        ("?\n: x", (1, 2), "the key (empty) is not text"),
        (": x", (1, 1), "a ':' without a key"),
        ("a: 1\n}", (2, 1), "this does not belong here"),
        ("? [a]\n: x", (1, 3), "a key must be text"),
        ("{a: b}: x", (1, 1), "a key must be text"),
        ("a: &x 1\nc:\n  <<: *x", (3, 3), "the merge key '<<' takes a map"),
        ("a: &x {b: 1}\nc: {<<: [*x, {d: 1}, e]}", (2, 5), "the merge key '<<' takes a map"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  <<: {d: 1}", (4, 3), "a second merge key '<<'"),
        ("a: 1\n---\nb: 2", (2, 1), "a second document"),
        ("a: *x", (1, 4), "no '&x' before"),
        ("a: &x [*x]", (1, 8), "'*x' stands inside '&x'"),
        ("", (1, 1), "there is nothing in it"),
        ("# only this\n", (1, 1), "there is nothing in it"),
        ("a: [1, 2", (1, 9), "the list is not closed"),
        ("a: {b: 1", (1, 9), "the map is not closed"),
        ("a: 'b", (1, 6), "the quoted text is not closed"),
        ("a: b: c", (1, 5), "a ':' where no key can stand"),
        ("a:\n\t- b", (2, 1), "a tab cannot indent"),
        ("a:\n  b: 1\n c: 2", (3, 2), "the indentation fits nothing above"),
        ("a: 1\nb", (2, 2), "a key without its ':'"),
        ('a: "\\q"', (1, 6), "unknown escape"),
        ('a: "\\UFFFFFFFF"', (1, 7), "means nothing"),
        ("a: x\x07y", (1, 5), "U+0007 is not allowed"),
        ("a: 1\nb: x\x00y", (2, 5), "U+0000 is not allowed"),
        ('a: "\\ud800"', (1, 4), "half of a surrogate pair"),
        (f"a: {'9' * 5000}", (1, 4), "5000 digits"),
        (f"a: {'[' * 70}", (1, 68), "nested more than 64 deep"),
    ],
)
def test_a_fault_is_refused_at_its_place(text: str, place: tuple[int, int], message: str) -> None:
    (problem,) = read_yaml(text, "t").problems
    assert message in problem.message
    assert (problem.place.source, problem.place.line, problem.place.column) == ("t", *place)
    assert problem.place.text == text.splitlines()[problem.place.line - 1] if text else problem.place.text == ""


def test_faults_that_do_not_hide_one_another_are_reported_together() -> None:
    reading = read_yaml("a: 1\na: 2\nb: !t 3\n4: c\nd: {<<: 1}\n", "t")
    assert [problem.place.line for problem in reading.problems] == [2, 3, 4, 5]
    assert plain(reading.root) == {"a": 1, "b": 3, "d": {}}  # type: ignore[arg-type]


def test_faults_before_a_syntax_error_are_reported_with_it() -> None:
    reading = read_yaml("a: 1\na: 2\nb: [", "t")
    assert reading.root is None
    assert [problem.place.line for problem in reading.problems] == [2, 3]


def test_an_alias_repeats_the_value_and_keeps_the_anchors_place() -> None:
    root = read_yaml("a: &x {b: 1}\nc: *x\n", "t").root
    assert root is not None
    assert plain(root) == {"a": {"b": 1}, "c": {"b": 1}}
    node = find(root, "c", "b")
    assert node is not None
    assert (node.place.line, node.place.column) == (1, 11)


def test_aliases_cannot_blow_a_small_file_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (problem,) = read_yaml("\n".join(lines), "t").problems
    assert f"more than {MAX_NODES} values" in problem.message


def test_every_node_and_key_knows_its_place() -> None:
    root = read_yaml("a:\n  - b: é1\n    c: [2, 'x']\n", "file").root
    assert isinstance(root, MapNode)
    placed = {
        path: find(root, *path).place  # type: ignore[union-attr]
        for path in [(), ("a",), ("a", 0), ("a", 0, "b"), ("a", 0, "c"), ("a", 0, "c", 0), ("a", 0, "c", 1)]
    }
    assert [(place.line, place.column) for place in placed.values()] == [
        (1, 1),
        (2, 3),
        (2, 5),
        (2, 8),
        (3, 8),
        (3, 9),
        (3, 12),
    ]
    inner = find(root, "a", 0)
    assert isinstance(inner, MapNode)
    assert (inner.keys["c"].line, inner.keys["c"].column, inner.keys["c"].text) == (3, 5, "    c: [2, 'x']")


def test_every_place_of_a_line_holds_one_and_the_same_text() -> None:
    root = read_yaml("[1, 2]", "--set", "path=").root
    assert isinstance(root, ListNode)
    first, second = root.items
    assert first.place.text == "path=[1, 2]"
    assert first.place.text is second.place.text, "20,000 copies of a line of 60 kB would be 1.2 GB"


def test_a_prefix_moves_the_columns_of_the_first_line_only() -> None:
    root = read_yaml("[1,\n 2]", "--set", "path=").root
    assert root is not None
    places = [find(root, 0), find(root, 1)]
    assert [(node.place.line, node.place.column, node.place.text) for node in places if node is not None] == [
        (1, 7, "path=[1,"),
        (2, 2, " 2]"),
    ]

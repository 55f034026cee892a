"""Read YAML strictly: the core schema of YAML 1.2, plain data only, and every node's place kept.

PyYAML's scanner and parser do the syntax. What they leave open is settled here: scalars follow YAML 1.2 (`1e-3` is a
number, `on` is text, `0o17` is octal, dates are text), a repeated key is an error, so are tags, keys that are not text
and several documents. The merge key `<<` of YAML 1.1 is read. Mistakes that do not hide one another are reported
together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import yaml

from avrobust_core.spec.nodes import ListNode, MapNode, Node, Place, ScalarNode
from avrobust_core.spec.problems import Problem

MAX_DEPTH: Final = 64
"""Deepest nesting that is read."""
MAX_NODES: Final = 20_000
"""Most nodes in one document, each alias counted with all that it stands for."""

NULL = re.compile(r"null|Null|NULL|~|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")

_PLAIN_WORDS: Final = (
    ("mapping values are not allowed here", "a ':' where no key can stand", "quote the text, or check the indentation"),
    ("found character '\\t'", "a tab cannot indent", "indent with spaces"),
    ("but found '<block mapping start>'", "the indentation fits nothing above", "line the keys of a map up"),
    ("but found '-'", "a list item where a key belongs", "check the indentation"),
    ("but found ':'", "a ':' without a key", "write `key: value`"),
    ("but found '<stream end>'", "the text ends too soon", "close what is open with ']' or '}'"),
    ("expected <block end>", "this does not belong here", "check the indentation and the brackets"),
    ("could not find expected ':'", "a key without its ':'", "write `key: value`"),
    ("found unexpected end of stream", "the quoted text is not closed", "close it with the same quote"),
    ("expected ',' or ']'", "the list is not closed", "separate items with ',' and close with ']'"),
    ("expected ',' or '}'", "the map is not closed", "separate entries with ',' and close with '}'"),
)
"""Part of a PyYAML message, the same in plain words, and what to do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of a text: its root (None if it cannot be read to the end) and the mistakes found on the way."""

    root: Node | None
    problems: tuple[Problem, ...]


def read_yaml(text: str, source: str, prefix: str = "", *, comments: bool = True) -> Reading:
    """Read one YAML document.

    Args:
        text: the document.
        source: how problems name it.
        prefix: what stands before the text in its first line, as in `--set path=value`: columns count it.
        comments: whether ` #` begins a comment, as it does in a file; if not, it stands for itself.
    """
    composer = _Composer(text, source, prefix, comments=comments)
    try:
        root = composer.document()
    except _FatalError:
        root = None
    return Reading(root, tuple(composer.problems))


def scalar_value(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar in the core schema of YAML 1.2 (section 10.3.2).

    Raises:
        ValueError: if a number has more digits than Python converts.
    """
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    if INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _FatalError(Exception):
    """The rest of the text cannot be read; the problem is noted already."""


class _Composer:
    """Turns PyYAML's events into nodes."""

    def __init__(self, text: str, source: str, prefix: str, *, comments: bool) -> None:
        # PyYAML always reads comments: where there are none, another character stands for # until it has done so.
        self._hash = "#" if comments else next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in text)
        self._text = text
        self._source = source
        self._prefix = prefix
        self._lines = _LINE_BREAK.split(text)
        self._lines[0] = prefix + self._lines[0]  # here, once: every node's place holds on to its line
        self.problems: list[Problem] = []
        self._anchors: dict[str, tuple[Node, int] | None] = {}  # None while the anchored node is being read
        self._count = 0
        self._loader: Any = None  # PyYAML's scanner and parser, of which types-PyYAML knows half

    def document(self) -> Node:
        try:
            self._loader = yaml.SafeLoader(self._text.replace("#", self._hash))
        except yaml.reader.ReaderError as error:  # it looks at every character before it begins
            lines = _LINE_BREAK.split(self._text[: error.position])
            message = f"the character U+{ord(self._text[error.position]):04X} is not allowed in YAML"
            raise self._fatal(self._place_at(len(lines) - 1, len(lines[-1])), message) from None
        self._next()  # start of the stream
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise self._fatal(self._place_at(0, 0), "there is nothing in it")
        root = self._node(self._next(), 0)
        self._next()  # end of the document
        event = self._next()
        if isinstance(event, yaml.DocumentStartEvent):
            raise self._fatal(self._place(event.start_mark), "a second document begins here", "keep one per file")
        return root

    def _next(self) -> yaml.Event:
        try:
            event: yaml.Event = self._loader.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._place(mark) if mark else self._place_at(0, 0)
            said = f"{error.problem or error.context}".replace(self._hash, "#")
            for part, words, advice in _PLAIN_WORDS:
                if part in said:
                    raise self._fatal(place, words, advice) from None
            raise self._fatal(place, said, f"{error.context}" if error.context and error.problem else "") from None
        except (ValueError, OverflowError) as error:  # PyYAML lets chr() and int() fail, as on "\UFFFFFFFF"
            place = self._place(self._loader.get_mark())
            raise self._fatal(place, f"an escape or directive that means nothing: {error}") from None
        return event

    def _node(self, event: yaml.Event, depth: int) -> Node:
        place = self._place(event.start_mark)
        if depth > MAX_DEPTH:
            raise self._fatal(place, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, place)
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        before = self._count
        self._grow(1, place)
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self._note(place, f"the tag {shown} is not allowed", "a spec is plain data: remove the tag")
        if isinstance(event, yaml.SequenceStartEvent):
            node: Node = self._list(place, depth)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._map(place, depth)
        else:
            assert isinstance(event, yaml.ScalarEvent)
            node = self._scalar(event, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._count - before)
        return node

    def _alias(self, name: str | None, place: Place) -> Node:
        if name is None or name not in self._anchors:
            raise self._fatal(place, f"no '&{name}' before '*{name}'", "quote text that starts with '*'")
        anchored = self._anchors[name]
        if anchored is None:
            raise self._fatal(place, f"'*{name}' stands inside '&{name}' itself")
        node, size = anchored
        self._grow(size, place)
        return node

    def _list(self, place: Place, depth: int) -> ListNode:
        items = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return ListNode(tuple(items), place)

    def _map(self, place: Place, depth: int) -> MapNode:
        children: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[MapNode] | None = None
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            written = self._place(event.start_mark)
            key = self._node(event, depth + 1)
            merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.style is None
            value = self._node(self._next(), depth + 1)
            if merge and merged is None:
                merged = self._merged(value, written)
            elif merge:
                self._note(written, "a second merge key '<<'", "list the maps in one: `<<: [*a, *b]`")
            elif not isinstance(key, ScalarNode):
                self._note(written, "a key must be text, not a list or a map")
            elif not isinstance(key.value, str):
                raw = event.value if isinstance(event, yaml.ScalarEvent) else str(key.value)
                self._note(written, f"the key {raw or '(empty)'} is not text", f'quote it: "{raw}"')
            elif key.value in keys:
                first = keys[key.value].line
                self._note(written, f"duplicate key '{key.value}'", f"it stands already in line {first}")
            else:
                children[key.value] = value
                keys[key.value] = written
        for source in merged or ():
            children = {**source.children, **children}
            keys = {**source.keys, **keys}
        return MapNode(children, keys, place)

    def _merged(self, value: Node, written: Place) -> list[MapNode]:
        """The maps that a merge key names: where two hold one key, the earlier wins."""
        items = value.items if isinstance(value, ListNode) else (value,)
        maps = [item for item in items if isinstance(item, MapNode)]
        if len(maps) < len(items):
            self._note(written, "the merge key '<<' takes a map, or a list of maps", "as in `<<: *name`")
        return maps

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> ScalarNode:
        value = event.value.replace(self._hash, "#")
        if event.style is None:
            try:
                return ScalarNode(scalar_value(value), place)
            except ValueError:
                self._note(place, f"a number of {len(value)} digits is not read")
                return ScalarNode(None, place)
        if _SURROGATES.search(value):
            # JSON writes a character above U+FFFF as two escapes; PyYAML leaves them as two halves.
            try:
                value = value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                self._note(place, "half of a surrogate pair is not a character", "write the character itself")
                value = ""
        return ScalarNode(value, place)

    def _grow(self, size: int, place: Place) -> None:
        self._count += size
        if self._count > MAX_NODES:
            raise self._fatal(place, f"more than {MAX_NODES} values, aliases expanded")

    def _place(self, mark: Any) -> Place:
        return self._place_at(mark.line, mark.column)

    def _place_at(self, line: int, column: int) -> Place:
        text = self._lines[line] if line < len(self._lines) else ""
        if line == 0:
            column += len(self._prefix)
        return Place(self._source, line + 1, column + 1, text)

    def _note(self, place: Place, message: str, hint: str = "") -> None:
        self.problems.append(Problem(place, message, hint))

    def _fatal(self, place: Place, message: str, hint: str = "") -> _FatalError:
        self._note(place, message, hint)
        return _FatalError()

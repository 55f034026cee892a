"""Text from elsewhere, made fit for a terminal and a log: no escapes, no control characters, no endless lines."""

import re
from typing import Final

LIMIT: Final = 500
"""Characters of a line, at most."""

_ESCAPES: Final = re.compile(
    r"""
    (?:\x1b[\]PX^_] | [\x90\x98\x9d-\x9f]) [^\x07\x1b\x9c]* (?:\x07 | \x1b\\ | \x9c)  # titles, links
    | (?:\x1b\[ | \x9b) [0-?]* [ -/]* [@-~]                        # colours, movements of the cursor
    | \x1b [ -/]* [0-~]                        # the shorter ones
    """,
    re.VERBOSE,
)

_BREAKS: Final = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")

_INVISIBLE: Final = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control characters other than white space, and those that turn the direction of what follows."""


def plain_text(text: object, limit: int = LIMIT) -> str:
    r"""One line of plain text: what a library, a file or a plugin says, to be part of a message of ours.

    Args:
        text: anything that str() takes; an error, for instance.
        limit: characters of the line at most, of which the last three say that it was cut.

    Returns:
        the text without terminal escapes, control characters and marks of direction, its white space single blanks;
        lone surrogates, which no terminal can print, as "\udc80".
    """
    return shortened(" ".join(_visible(str(text)).split()), limit)


def plain_lines(text: object, limit: int = LIMIT) -> str:
    """The same for text of several lines, each of which is cut by itself; indentation stays."""
    lines = _BREAKS.split(_ESCAPES.sub("", str(text)))
    return "\n".join(shortened(_visible(line).replace("\t", "    ").rstrip(), limit) for line in lines)


def shortened(line: str, limit: int) -> str:
    """A line of at most so many characters, of which the last three say that it was cut."""
    return line if len(line) <= limit else line[: max(limit - 3, 0)] + "..."


def _visible(text: str) -> str:
    text = _INVISIBLE.sub("", _ESCAPES.sub("", text))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

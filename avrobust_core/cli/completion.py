"""The command `avrobust completion`: shells complete commands, options, files and components by asking avrobust.

A shell's script hands over the words before the cursor, and is told what may follow, from the parser itself: no script
has to be made anew when a command or a plugin changes. Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from avrobust_core.cli.layout import say
from avrobust_core.cli.options import installed
from avrobust_core.plain_text import plain_text

FILES = "files"
"""The first line of an answer where files may stand; else it is `WORDS`. A candidate and its help follow on each line,
with a tab between them."""

WORDS = "words"

Candidate = tuple[str, str]
"""A word that may follow, and what it means in a few words."""

_SCRIPTS = {
    "bash": """\
_avrobust() {
    local IFS=$'\\n' line
    local -a lines
    COMPREPLY=()
    while read -r line; do lines+=("$line"); done < <(
        avrobust completion --before="${COMP_WORDS[*]:1:COMP_CWORD-1}" --word="${COMP_WORDS[COMP_CWORD]}" 2>/dev/null
    )
    [[ ${lines[0]} == files ]] && compopt -o default 2>/dev/null
    for line in "${lines[@]:1}"; do COMPREPLY+=("${line%%$'\\t'*}"); done
}
complete -F _avrobust avrobust
""",
    "zsh": """\
#compdef avrobust
_avrobust() {
    local -a lines words_ helps_
    local before="${(pj:\\n:)words[2,CURRENT-1]}" line
    lines=("${(@f)$(avrobust completion --before="$before" --word="$words[CURRENT]" 2>/dev/null)}")
    for line in "${(@)lines[2,-1]}"; do
        [[ -n $line ]] && words_+=("${line%%$'\\t'*}") && helps_+=("${line//$'\\t'/  }")
    done
    (( $#words_ )) && compadd -l -d helps_ -a words_
    [[ $lines[1] == files ]] && _files
    return 0
}
if [[ $funcstack[1] == _avrobust ]]; then _avrobust "$@"; else compdef _avrobust avrobust; fi
""",
    "fish": """\
function __avrobust_complete
    set -l words (commandline -opc)
    set -l before (string join \\n -- $words[2..-1] | string collect)
    set -l word (commandline -ct)
    set -l lines (avrobust completion "--before=$before" "--word=$word" 2>/dev/null)
    test "$lines[1]" = files; and __fish_complete_path (commandline -ct)
    test (count $lines) -gt 1; and printf '%s\\n' $lines[2..-1]
end
complete -c avrobust -f -a '(__avrobust_complete)'
""",
}
"""By shell."""

_WHERE = {
    "bash": 'eval "$(avrobust completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(avrobust completion zsh)" in ~/.zshrc, below compinit',
    "fish": "avrobust completion fish > ~/.config/fish/completions/avrobust.fish",
}

_OF_FILES = {"SPEC", "RUN", "DIR", "FILE"}
"""What arguments are called that name files or folders, beside those whose type says so."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `completion`."""
    completion = commands.add_parser(
        "completion",
        help="print the script by which a shell completes avrobust's commands, options and names",
        description="Print the script by which a shell completes avrobust's commands, options, files and names of "
        "components. To use it: " + "; ".join(f"{shell}: {where}" for shell, where in _WHERE.items()) + ".",
    )
    asked = completion.add_mutually_exclusive_group(required=True)
    asked.add_argument("shell", metavar="SHELL", nargs="?", choices=(*_SCRIPTS,), help=", ".join(_SCRIPTS))
    asked.add_argument("--before", help=argparse.SUPPRESS)  # the words before the cursor's, a line each
    completion.add_argument("--word", default="", help=argparse.SUPPRESS)  # the cursor's own, as far as it is typed
    completion.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    from avrobust_core.cli import command_parser  # which imports this module

    if options.before is None:
        say(_SCRIPTS[options.shell].rstrip())
        return 0
    before = options.before.split("\n") if options.before else []
    word = "--" if options.word == [] else options.word  # argparse of Python 3.11 takes the value out of --word=--
    files, found = completed(command_parser(), before, word, lambda argument: _names(options, argument))
    lines = [FILES if files else WORDS, *(f"{word}\t{told}" if told else word for word, told in found)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


Names = Callable[[str], Iterable[Candidate]]
"""Gives the names that may stand for an argument, from the argument's own."""


def completed(
    parser: argparse.ArgumentParser, before: Sequence[str], word: str, names: Names
) -> tuple[bool, list[Candidate]]:
    """What may stand in the place of a word.

    Args:
        parser: of the command line.
        before: the words before it, without the command's own name.
        word: as far as it is typed.
        names: gives what is known of arguments that are names.

    Returns:
        Whether files may stand there; and the words that may, in order.
    """
    place: _Place | None = _Place(parser)
    for each in before:
        # bash makes three words of --out=runs.
        place = place if each == "=" or place is None else place.after(each)
    if place is None:
        return False, []
    word = "" if word == "=" else word
    option, equals, begun = word.partition("=")
    action = place.option(option) if equals else place.wants
    if action is not None:
        values = _values(action, names)
        prefix = f"{option}=" if equals else ""
        begun = begun if equals else word
        return _is_file(action) and not equals, [
            (prefix + value, told) for value, told in values if value.startswith(begun)
        ]
    if word.startswith("-"):
        return False, [each for each in place.flags() if each[0].startswith(word)]
    may = place.may
    found = [each for action in may for each in _values(action, names) if each[0].startswith(word)]
    return any(map(_is_file, may)), found


class _Place:
    """A place on a command line, reached word by word.

    Attributes:
        parser: of the command that the words have come to.
        wants: the option that must have a value here; None if none must.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        self.wants: argparse.Action | None = None
        self._missing = 0
        self._more: argparse.Action | None = None  # an option that takes further values
        self._given: set[argparse.Action] = set()
        self._waiting = [action for action in parser._actions if not action.option_strings]

    @property
    def may(self) -> list[argparse.Action]:
        """What a word that is no option may belong to."""
        return [action for action in (self._more, *self._waiting[:1]) if action is not None]

    def after(self, word: str) -> _Place | None:
        """The place behind a word; None if nothing is known of what follows."""
        if self.wants is not None:
            self._missing -= 1
            if not self._missing:
                self.wants = None
        elif word.startswith("-") and word != "-":
            self._pass_option(word)
        elif self._more is None and self._waiting:
            action = self._waiting[0]
            if isinstance(action, argparse._SubParsersAction):
                chosen = action.choices.get(word)
                return None if chosen is None else _Place(chosen)
            if action.nargs not in ("+", "*"):
                self._waiting.pop(0)
        return self

    def option(self, word: str) -> argparse.Action | None:
        """The option of that name."""
        return next((action for action in self.parser._actions if word in action.option_strings), None)

    def flags(self) -> Iterator[Candidate]:
        """The options that may be given here, long before short."""
        for action in self.parser._actions:
            repeatable = isinstance(action, argparse._AppendAction)
            if action.option_strings and action.help != argparse.SUPPRESS and (repeatable or action not in self._given):
                yield max(action.option_strings, key=len), _meaning(action.help)

    def _pass_option(self, word: str) -> None:
        name, equals, _ = word.partition("=")
        action, self._more = self.option(name), None
        if action is None:
            return
        self._given.add(action)
        if action.nargs in ("+", "*", "?"):
            self._more = None if equals else action
        elif action.nargs != 0 and not equals:
            self.wants, self._missing = action, action.nargs if isinstance(action.nargs, int) else 1


def _values(action: argparse.Action, names: Names) -> Iterator[Candidate]:
    if isinstance(action, argparse._SubParsersAction):
        yield from ((each.dest, _meaning(each.help)) for each in action._choices_actions)
    elif action.choices is not None:
        yield from ((str(choice), "") for choice in action.choices)
    elif not _is_file(action):
        yield from names(action.dest)


def _is_file(action: argparse.Action) -> bool:
    return action.type is Path or action.metavar in _OF_FILES


def _meaning(told: str | None) -> str:
    return " ".join((told or "").replace("%%", "%").split())


def _names(options: argparse.Namespace, argument: str) -> Iterator[Candidate]:
    """Names of kinds, plugins and components, for the arguments that take such; none for others."""
    if argument == "kind":
        from avrobust_core.registry.kinds import KINDS

        yield from ((kind, "") for kind in KINDS)
    elif argument in ("no_plugin", "name", "metric"):
        registry = installed(options)
        if argument != "metric":
            yield from ((plugin.name, f"plugin of {plugin.distribution}") for plugin in registry.plugins)
        entries = {"no_plugin": (), "name": registry.entries(), "metric": registry.entries("metric")}[argument]
        yield from ((each.component.name, plain_text(f"{each.kind}: {each.component.summary}")) for each in entries)

"""Values on the command line: key=value pairs, whose values are JSON where they read as such, else texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

_WORDS = {"true": True, "false": False, "null": None}


def pairs(given: Iterable[str], option: str) -> dict[str, Any]:
    """`x-max-length=5` to {"x-max-length": 5}; a text that begins with { is taken as a whole object."""
    found: dict[str, Any] = {}
    for text in given:
        if text.lstrip().startswith("{"):
            found |= json_object(text, option)
            continue
        key, sign, value = text.partition("=")
        if not key or not sign:
            raise click.UsageError(f"{option} '{text}': expected KEY=VALUE")
        found[key] = value_of(value)
    return found


def value_of(text: str) -> Any:
    """5, 0.5, true, null, lists, objects and quoted texts as JSON; all else is the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if text[:1] in '[{"' or text[:1].isdigit() or text[:1] == "-":
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def json_object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{option}: expected a JSON object")
    return value


def confirm(question: str, *, yes: bool) -> None:
    """On a terminal asks before what cannot be undone; a script is taken at its word."""
    import sys

    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm(question, abort=True, err=True)

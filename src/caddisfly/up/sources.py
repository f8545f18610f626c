"""Where settings come from, and who is to blame when one is wrong.

A message that says "extra inputs are not permitted" leaves the operator to search. This module knows the line of each
key and the variable of each override, so that the message can point at it.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, SecretStr

from caddisfly.model.errors import InvalidArgument

_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_.\"'-]+)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")
_PREFIX = "CADDIS_"


@dataclass(slots=True)
class Sources:
    """The raw values of one start, each with its place, and the mistakes found so far."""

    file: Path | None
    models: Mapping[str, type[BaseModel]]
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path | None, environment: Mapping[str, str], models: Mapping[str, type[BaseModel]]) -> Sources:
        """Raises `InvalidArgument` when the file cannot be read or is not TOML, or holds unknown sections."""
        sources = cls(file, models)
        if file is not None:
            sources._read_file(file)
        sources._read_environment(environment)
        sources.check()
        return sources

    def section(self, name: str) -> dict[str, Any]:
        return self.values.get(name, {})

    def blame(self, section: str, mistake: Mapping[str, Any], model: type[BaseModel]) -> None:
        """Turn one of pydantic's errors into words with a place."""
        key = str(mistake["loc"][0]) if mistake["loc"] else ""
        inner = ".".join(map(str, mistake["loc"][1:]))
        place = self.places.get((section, key), f"[{section}]")
        name = f"{section}.{key}" + (f".{inner}" if inner else "")
        if mistake["type"] == "extra_forbidden" and not inner:
            self.mistakes.append(f"{place}: unknown key {key!r} in [{section}]{_near(key, model.model_fields)}")
            return
        known = model.model_fields.get(key)
        secret = known is not None and known.annotation is SecretStr
        given = "" if secret else f", got {mistake['input']!r}"
        self.mistakes.append(f"{place}: {name}: {_allowed(mistake)}{given}")

    def check(self) -> None:
        """Raise `InvalidArgument` listing every mistake found, if any."""
        if self.mistakes:
            what = "a setting is wrong" if len(self.mistakes) == 1 else f"{len(self.mistakes)} settings are wrong"
            raise InvalidArgument(
                what, why="\n".join(self.mistakes), next="correct it; `caddis settings` lists every setting"
            )

    def _read_file(self, file: Path) -> None:
        try:
            text = file.read_text()
            raw = tomllib.loads(text)
        except OSError as error:
            raise InvalidArgument(
                f"the settings file {file} cannot be read", why=str(error), next="correct --config or CADDIS_CONFIG"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{file} is not TOML", why=str(error), next="correct that line") from error
        lines = _lines(text)
        for section, values in raw.items():
            place = f"{file}:{lines.get((section, ''), lines.get(('', section), 1))}"
            if section not in self.models:
                self.mistakes.append(f"{place}: unknown section [{section}]{_near(section, self.models)}")
            elif not isinstance(values, dict):
                self.mistakes.append(f"{place}: {section} must be a section, [{section}], got {values!r}")
            else:
                self.values[section] = dict(values)
                for key in values:
                    self.places[section, key] = f"{file}:{lines.get((section, key), 1)}"

    def _read_environment(self, environment: Mapping[str, str]) -> None:
        for variable, text in environment.items():
            section, _, key = variable.removeprefix(_PREFIX).lower().partition("_")
            if not variable.startswith(_PREFIX) or section not in self.models or not key:
                continue
            fields = self.models[section].model_fields
            if key not in fields:
                names = [f"{_PREFIX}{section}_{name}".upper() for name in fields]
                self.mistakes.append(f"environment: unknown variable {variable}{_near(variable, names)}")
                continue
            self.values.setdefault(section, {})[key] = _decoded(text, fields[key].annotation)
            self.places[section, key] = f"environment, {variable}"


def _decoded(text: str, annotation: Any) -> Any:
    """Collections are JSON, or words between commas; everything else is what pydantic makes of a string."""
    if get_origin(annotation) not in (tuple, list, set, frozenset, dict):
        return text
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [word.strip() for word in text.split(",") if word.strip()]


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Line number, from 1, of each `(section, key)`; the section itself is `(section, "")`."""
    found: dict[tuple[str, str], int] = {}
    section, inner = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section, _, inner = header[1].replace('"', "").replace("'", "").partition(".")
            found.setdefault((section, ""), number)
            if inner:
                found.setdefault((section, inner.partition(".")[0]), number)
        elif key := _KEY.match(line):
            name = key[1].replace('"', "").replace("'", "").partition(".")[0]
            found.setdefault((section, inner.partition(".")[0] if inner else name), number)
    return found


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _allowed(mistake: Mapping[str, Any]) -> str:
    """What is allowed, in the words of pydantic but without its jargon."""
    message = (
        str(mistake["msg"])
        .removeprefix("Value error, ")
        .replace("Input should be", "must be")
        .replace("String should", "must")
    )
    return message[0].lower() + message[1:]

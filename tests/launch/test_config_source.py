"""The file behind a config, and where in it things stand."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caddisfly.launch.config import source
from caddisfly.model.errors import InvalidArgument, NotFound, Unimplemented

TEXT = '''# a comment with [brackets] and a = sign
app = "hello"  # = [
primary_region = 'ams'

[env]
  "quoted key" = "a # b"
  TEXT = """
[not.a.table]
x = 1
"""
  LITERAL = \'\'\'
y = "2"\'\'\'

[http_service]
internal_port = 8080
checks = [
  { path = "/", interval = "1s" },  # first
  # another { [ comment
  { path = "/two" },
]
concurrency.soft_limit = 20

[[vm]]
size = "shared-cpu-1x"

[[vm]]
  memory = 512
  [vm.more]
  deep = { a = [1, 2], b = {c = 2024-01-01 00:00:00} }

[a."b.c".d]
e = true
'''


def at(text: str, tmp_path: Path, name: str = "fly.toml") -> source.Source:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return source.read(path)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("app",), 2),
        (("primary_region",), 3),
        (("env",), 5),
        (("env", "quoted key"), 6),
        (("env", "TEXT"), 7),
        (("env", "LITERAL"), 11),
        (("http_service", "checks", 0), 17),
        (("http_service", "checks", 1, "path"), 19),
        (("http_service", "concurrency", "soft_limit"), 21),
        (("vm",), 23),
        (("vm", 0, "size"), 24),
        (("vm", 1), 26),
        (("vm", 1, "memory"), 27),
        (("vm", 1, "more"), 28),
        (("vm", 1, "more", "deep", "b", "c"), 29),
        (("a", "b.c", "d", "e"), 32),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_the_line_of_a_key(key: source.Key, line: int, ends: str, tmp_path: Path) -> None:
    found = at(TEXT.replace("\n", ends), tmp_path)
    assert found.lines[key] == line
    assert found.where(key) == f"fly.toml:{line}"


def test_of_what_is_not_there_the_nearest_thing_around_it_is_told(tmp_path: Path) -> None:
    found = at(TEXT, tmp_path)
    assert found.where(("http_service", "checks", 1, "method")) == "fly.toml:19"
    assert found.where(("mounts",)) == "fly.toml"
    problem = found.mistake(("http_service", "internal_port"), "it is taken", next="another one")
    assert (problem.what, problem.next) == ("fly.toml:15: it is taken", "another one")


def keys(value: object, before: source.Key = ()) -> set[source.Key]:
    """Every key of parsed values, for comparison."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: set[source.Key] = set()
    for name, child in children:
        found |= {(*before, name)} | keys(child, (*before, name))
    return found


def test_no_key_is_missed_and_none_is_made_up(tmp_path: Path) -> None:
    found = at(TEXT, tmp_path)
    assert keys(found.values) - set(found.lines) == {("a",), ("a", "b.c")}  # which have no line of their own
    assert set(found.lines) <= keys(found.values)


_NAMES = st.text("ab-_.# [\"'", min_size=1, max_size=4)
_VALUES = st.recursive(
    st.sampled_from(['"x"', "'#]'", '"""\na = 1\n[b]"""', "1", "true", "1.5", '"\\""']),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[ {', '.join(items)} ]"),
        st.lists(inner, max_size=3).map(lambda items: "[\n# ]\n" + "".join(f"{item},\n" for item in items) + "]"),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{name} = {value}" for name, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=8,
)


@given(st.dictionaries(_NAMES, _VALUES, max_size=4), st.lists(_VALUES, max_size=3))
def test_whatever_tomllib_reads_the_walk_reads_alike(top: dict[str, str], entries: list[str]) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '\\"') + '"'

    text = "".join(f"{quoted(name)} = {value} # c\n" for name, value in top.items())
    text += "".join(f"[[list.of]]\nentry = {value}\n" for value in entries)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # a name that is also `list`
        return
    assert set(source._Walk(text).lines()) | {("list",)} == keys(values) | {("list",)}


def test_which_file(tmp_path: Path) -> None:
    assert source.find(tmp_path) is None
    for name in ("fly.yml", "fly.yaml", "fly.json", "fly.toml"):
        (tmp_path / name).touch()
        assert source.find(tmp_path) == (None if name == "fly.yml" else tmp_path / name)
    (tmp_path / "sub").mkdir()
    with pytest.raises(NotFound, match="config file not found at specified path"):
        source.find(tmp_path, Path("sub"))
    (tmp_path / "sub" / "fly.toml").touch()
    assert source.find(tmp_path, Path("sub")) == tmp_path / "sub" / "fly.toml"
    assert source.find(tmp_path, Path("fly.json")) == tmp_path / "fly.json"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("fly.toml", 'app = "a"\nb = \n', "fly.toml:2:5: Invalid value"),
        ("fly.toml", "[a\n", "fly.toml:1:3: Expected ']' at the end of a table declaration"),
        ("fly.toml", 'a = """', "fly.toml:1:1: Unterminated string"),
        ("fly.toml", "a = 1\na = 2\n", "fly.toml:2:6: Cannot overwrite a value"),
        ("staging.toml", "a", "staging.toml:1:1: Expected '=' after a key in a key/value pair"),
        ("fly.json", '{"a": }', "fly.json:1:7: Expecting value"),
        ("fly.json", "[]", "fly.json: there is no JSON object in it"),
    ],
)
def test_a_mistake_is_told_with_row_and_column(name: str, text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        at(text, tmp_path, name)
    assert caught.value.what == what


def test_other_formats(tmp_path: Path) -> None:
    assert at('{"app": "x"}', tmp_path, "fly.json").values == {"app": "x"}
    with pytest.raises(Unimplemented):
        at("app: x", tmp_path, "fly.yaml")


def test_dotted() -> None:
    assert source.dotted(("http_service", "checks", 0, "path")) == "http_service.checks[0].path"

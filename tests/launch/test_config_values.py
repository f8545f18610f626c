"""Values of a fly.toml, as flyctl reads them."""

from __future__ import annotations

import pytest

from caddisfly.launch.config import values
from caddisfly.model.errors import InvalidArgument


@pytest.mark.parametrize(
    ("value", "bare", "text"),
    [
        ("81s", "seconds", "1m21s"),
        ("60s", "milliseconds", "1m0s"),
        (120, "seconds", "2m0s"),
        (2.7, "seconds", "2s"),
        (15000, "milliseconds", "15s"),
        (15000, "nanoseconds", "15s"),
        (300_000_000_000, "nanoseconds", "5m0s"),
        ("", "seconds", "None"),
        ("", "milliseconds", "None"),
    ],
)
def test_lengths_of_time(value: object, bare: values.Bare, text: str) -> None:
    length, warning = values.duration(value, bare=bare, field="x")
    assert str(length) == text
    assert bool(warning) is (value == 15000 and bare == "nanoseconds")


@pytest.mark.parametrize("value", ["", "1 fortnight", True, [1]])
def test_what_is_no_length_of_time(value: object) -> None:
    with pytest.raises(InvalidArgument, match="wait_timeout"):
        values.duration(value, bare="nanoseconds", field="wait_timeout")


@pytest.mark.parametrize(
    ("value", "mb"),
    [(512, 512), ("512", 512), ("512 MB", 512), ("512MiB", 512), ("1gb", 1024), ("1.5gb", 1536), ("2G", 2048),
     ("2048k", 2), ("1tb", 1048576), ("0.7mb", 0)],
)  # fmt: skip
def test_memory(value: object, mb: int) -> None:
    assert values.memory_mb(value) == mb


@pytest.mark.parametrize(
    ("value", "gb"),
    [(5, 5), ("5", 5), ("1500mb", 1), ("500mb", 0), ("1gib", 1), ("10GiB", 10), ("3gb", 3), ("1tb", 1000),
     ("1TiB", 1099)],
)  # fmt: skip
def test_disks(value: object, gb: int) -> None:
    assert values.disk_gb(value) == gb


@pytest.mark.parametrize("value", ["big", "", "1x", "-1gb", -1, True, None, 1.5, "1 g b"])
def test_what_is_no_size(value: object) -> None:
    for read in (values.memory_mb, values.disk_gb):
        with pytest.raises(InvalidArgument, match="invalid size"):
            read(value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run me", ["run", "me"]),
        ("  a \t b\n", ["a", "b"]),
        ("bin/migrate --all 'x y'", ["bin/migrate", "--all", "x y"]),
        ('sh -c "echo \\"hi\\" $X"', ["sh", "-c", 'echo "hi" $X']),
        (r"a\ b 'c\d'", ["a b", r"c\d"]),
        ("a '' \"\"", ["a", "", ""]),
        ("pre'fix'ed", ["prefixed"]),
        ("a # comment", ["a"]),
        ("a#b '#' c", ["a#b", "#", "c"]),
        ("", []),
    ],
)
def test_command_lines(line: str, words: list[str]) -> None:
    assert values.words(line) == words


@pytest.mark.parametrize(
    ("line", "what"),
    [("a 'b", "EOF found when expecting closing quote"), ('a "b', "EOF found when expecting closing quote"),
     ("a\\", "EOF found after escape character")],
)  # fmt: skip
def test_command_lines_without_an_end(line: str, what: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        values.words(line)
    assert caught.value.what == what

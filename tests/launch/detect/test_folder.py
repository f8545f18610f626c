"""A folder of somebody else: read within bounds, never left, and what could not be read is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caddisfly.launch.detect import Folder, opened
from caddisfly.launch.detect.folder import MOST_BYTES, MOST_SOURCES
from caddisfly.model.errors import InvalidArgument


def test_a_link_to_outside_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("fastapi\n")
    root = tmp_path / "app"
    root.mkdir()
    (root / "requirements.txt").symlink_to("../secret.txt")
    (root / "real.txt").write_text("here")
    (root / "alias.txt").symlink_to("real.txt")
    folder = Folder(root.resolve())
    assert not folder.has("requirements.txt")
    assert folder.text("requirements.txt") == ""
    assert folder.text("alias.txt") == "here"
    assert folder.doubts == ["requirements.txt is a link to outside of the folder and was not followed"]


def test_a_directory_behind_a_link_is_outside_too(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "main.py").write_text("")
    root = tmp_path / "app"
    root.mkdir()
    (root / "src").symlink_to("../other")
    folder = Folder(root.resolve())
    assert list(folder.sources(".py")) == []
    assert folder.text("src/main.py") == ""


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert Folder(tmp_path.resolve()).text("a") == ""


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "package.json")
    folder = Folder(tmp_path.resolve())
    assert folder.text("package.json") == ""
    assert not folder.has("package.json")


def test_a_file_that_is_too_large_is_a_doubt(tmp_path: Path) -> None:
    with (tmp_path / "package.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    folder = Folder(tmp_path.resolve())
    assert folder.json("package.json") == {}
    assert folder.doubts == ["package.json is larger than 1 MiB and was not read"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("package.json", "{"),
        ("package.json", "[" * 100_000),
        ("pyproject.toml", "a = "),
        ("compose.yaml", "a: [b"),
        ("compose.yaml", "a: !!python/object/apply:os.system [ls]"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_a_doubt(tmp_path: Path, path: str, content: str) -> None:
    (tmp_path / path).write_text(content)
    folder = Folder(tmp_path.resolve())
    parse = {"json": folder.json, "toml": folder.toml, "yaml": folder.yaml}[path.rpartition(".")[2]]
    assert parse(path) == {}
    assert folder.doubts[0].startswith(f"{path} is not ")


def test_text_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"# caf\xe9\nfastapi\n")
    assert "fastapi" in Folder(tmp_path.resolve()).text("requirements.txt")


def test_a_search_for_sources_is_bounded_and_skips_what_was_fetched(tmp_path: Path) -> None:
    for directory in ("node_modules", "venv", ".hidden", "pkg"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a.py").write_text("")
    assert list(Folder(tmp_path.resolve()).sources(".py")) == ["pkg/a.py"]
    for number in range(MOST_SOURCES + 50):
        (tmp_path / "pkg" / f"b{number:04}.py").write_text("")
    assert len(list(Folder(tmp_path.resolve()).sources(".py"))) <= MOST_SOURCES


def test_what_is_no_folder_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not found"):
        opened(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="is not a directory") as caught:
        opened(tmp_path / "file")
    assert caught.value.next == f"caddis detect {tmp_path}"


def test_a_folder_that_may_not_be_read_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InvalidArgument, match="cannot be read") as caught:
        opened(tmp_path)
    assert caught.value.why == "Permission denied"
    assert caught.value.next

"""The folder of a build: what is sent of it, in which packs."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import socket
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard

from caddisfly.launch.build import context, ignore
from caddisfly.launch.build.context import Entry, Folder, Pack
from caddisfly.model.context import DOCKERFILE, INDEX, PACK, Context, Descriptor
from caddisfly.model.errors import Aborted, FailedPrecondition, InvalidArgument

EVERYTHING = ignore.rules([])


def packed(pack: Pack) -> bytes:
    out = io.BytesIO()
    pack.write(out)
    return out.getvalue()


def members(content: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(content))) as tar:
        return tar.getmembers()


def unpacked(folder: Folder, target: Path) -> None:
    """As a host does it, with the standard library's extractor."""
    for pack in folder.packs():
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed(pack))
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            tar.extraction_filter = staticmethod(lambda member, _: member)  # which later Pythons want to be told
            tar.extractall(target)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        facts = path.lstat()
        content: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        mode = 0 if path.is_symlink() else stat.S_IMODE(facts.st_mode)
        found[str(path.relative_to(root))] = (stat.S_IFMT(facts.st_mode), mode, content)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some 300 files, about 3 MB."""
    root = tmp_path / "source"
    chance = random.Random(7)
    for number in range(300):
        path = root / f"package{number % 7}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(20_000)))
    return root


def test_a_folder_arrives_as_it_is(source: Path, tmp_path: Path) -> None:
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "empty").mkdir(mode=0o700)
    (source / "link").symlink_to("run")
    (source / "dangling").symlink_to("/nowhere/at all")
    (source / "to-outside").symlink_to("../..")
    (source / ".wh.odd").write_text("no whiteout")
    (source / ("d" * 150) / ("e" * 150)).mkdir(parents=True)
    (source / ("d" * 150) / ("e" * 150) / "ü").write_text("deep")
    (source / os.fsdecode(b"latin-\xe9")).write_text("one byte")
    (source / "big").write_bytes(b"x" * 3_000_001)
    unpacked(context.walk(source, EVERYTHING), tmp_path / "target")
    assert tree(tmp_path / "target") == tree(source)


def test_packs_are_small_and_hold_each_path_once(source: Path) -> None:
    folder = context.walk(source, EVERYTHING)
    packs = folder.packs()
    assert 3 <= len(packs) <= 12
    assert all(sum(entry.size for entry in pack.entries) <= context.PACK_BYTES for pack in packs)
    paths = [entry.path for pack in packs for entry in pack.entries]
    assert sorted(paths) == sorted(entry.path for entry in folder.entries)
    assert all(entry.is_directory for entry in packs[0].entries)


def test_packs_tell_nothing_of_the_computer_they_were_made_on(source: Path, tmp_path: Path) -> None:
    before = [packed(pack) for pack in context.walk(source, EVERYTHING).packs()]
    clone = tmp_path / "elsewhere"
    shutil.copytree(source, clone, copy_function=shutil.copyfile)
    os.utime(clone / "package1", (1, 1))
    assert [packed(pack) for pack in context.walk(clone, EVERYTHING).packs()] == before
    assert {(one.mtime, one.uid, one.gid, one.uname) for one in members(before[1])} == {(0, 0, 0, "")}


def test_a_changed_line_changes_one_pack(source: Path) -> None:
    before = {packed(pack) for pack in context.walk(source, EVERYTHING).packs()}
    with (source / "package3" / "module3.py").open("ab") as module:
        module.write(b"one more line\n")
    fresh = {packed(pack) for pack in context.walk(source, EVERYTHING).packs()} - before
    assert len(fresh) == 1
    assert sum(map(len, fresh)) < 1_100_000


def test_a_new_file_and_a_big_one_leave_the_other_packs_alone(source: Path) -> None:
    before = {packed(pack) for pack in context.walk(source, EVERYTHING).packs()}
    (source / "package1" / "new.py").write_text("new")
    (source / "package1" / "model.bin").write_bytes(b"m" * 2_000_000)
    after = [packed(pack) for pack in context.walk(source, EVERYTHING).packs()]
    assert len(set(after) - before) == 2


def test_a_huge_folder_has_larger_packs_not_more(tmp_path: Path) -> None:
    entries = tuple(Entry(f"f{number:05}", stat.S_IFREG | 0o644, 3_000_000, 0) for number in range(10_000))
    packs = Folder(tmp_path, EVERYTHING, entries).packs()
    assert 500 < len(packs) < 3 * context.MOST_PACKS


def test_the_index_has_the_times(source: Path) -> None:
    os.utime(source / "package1" / "module1.py", (1_600_000_000, 1_600_000_000))
    index = json.loads(zstandard.decompress(context.walk(source, EVERYTHING).index()))
    assert index["mtimes"]["package1/module1.py"] == 1_600_000_000
    assert "package1" in index["mtimes"]


def test_the_rules_hold_and_an_exception_brings_its_directories(tmp_path: Path) -> None:
    for name in ("a/b/keep", "a/b/drop", "c/drop", "top"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = context.walk(tmp_path, ignore.rules(["*", "!a/b/keep"]))
    assert [entry.path for entry in folder.entries] == ["a", "a/b", "a/b/keep"]
    assert folder.file_count == 1


def test_sizes_and_the_biggest_files(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"f{number}").write_bytes(b"x" * number)
    folder = context.walk(tmp_path, EVERYTHING)
    assert folder.size == 10
    assert [(entry.path, entry.size) for entry in folder.biggest(2)] == [("f4", 4), ("f3", 3)]


def test_what_cannot_be_sent_is_named_unless_it_is_ignored(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent.sock"))
        with pytest.raises(FailedPrecondition) as caught:
            context.walk(tmp_path, EVERYTHING)
        assert caught.value.what == "'agent.sock' cannot be part of a build"
        assert caught.value.why == "it is a socket"
        assert context.walk(tmp_path, ignore.rules(["*.sock"])).entries == ()
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FailedPrecondition, match="not all of the folder can be read") as caught:
            context.walk(tmp_path, EVERYTHING)
        assert "pipe: it is a pipe" in caught.value.why


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("key"))  # root may read all
    with pytest.raises(FailedPrecondition) as caught:
        context.walk(tmp_path, EVERYTHING)
    assert (caught.value.what, caught.value.why) == ("'key' cannot be part of a build", "you may not read it")


@pytest.mark.parametrize("change", ["grow", "shrink", "remove", "link"])
def test_a_file_that_changes_meanwhile_is_not_sent_wrong(change: str, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("12345")
    folder = context.walk(tmp_path, EVERYTHING)
    path.unlink()
    if change == "link":
        path.symlink_to("/etc/passwd")
    elif change != "remove":
        path.write_text("123456" if change == "grow" else "1234")
    with pytest.raises(Aborted, match=r"'app\.log' changed while it was read"):
        packed(folder.packs()[0])


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not found"):
        context.walk(tmp_path / "absent", EVERYTHING)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="not a directory"):
        context.walk(tmp_path / "file", EVERYTHING)


def test_the_manifest_goes_there_and_back() -> None:
    whole = Context(Descriptor.of(INDEX, b"i"), Descriptor.of(DOCKERFILE, b"FROM x"), (Descriptor.of(PACK, b"p"),) * 2)
    assert Context.from_bytes(whole.to_bytes()) == whole
    assert json.loads(whole.to_bytes())["config"]["mediaType"] == INDEX


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"artifactType": "x"}, "artifact type"),
        ({"layers": []}, "no layers"),
        ({"layers": [{}]}, "no media type"),
        ({"layers": [{"mediaType": PACK, "digest": "sha256:" + "0" * 64, "size": 1}]}, "its parts"),
        ({"config": {"mediaType": INDEX, "digest": "sha256:../../x", "size": 1}}, "digest"),
        ({"config": {"mediaType": INDEX, "digest": "sha256:" + "0" * 64, "size": -1}}, "size"),
    ],
)
def test_another_manifest_is_refused(change: dict[str, object], why: str) -> None:
    whole = Context(Descriptor.of(INDEX, b"i"), Descriptor.of(DOCKERFILE, b"FROM x"), ())
    record = json.loads(whole.to_bytes()) | change
    with pytest.raises(InvalidArgument) as caught:
        Context.from_bytes(json.dumps(record).encode())
    assert why in caught.value.why

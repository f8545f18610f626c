"""Layers: what they become on disk, and what hostile ones cannot do (fault 18).

Every hostile layer is unpacked next to a canary: nothing outside the layer's directory may change, and nothing may be
left of a layer that is refused.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from caddisfly.host.images.image import Descriptor, Layer
from caddisfly.host.images.layers import LayerStore
from caddisfly.model.errors import InvalidArgument
from tests.images.conftest import quick
from tests.images.factories import TarFactory, header, sha

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep, version 2


class Bench:
    """A layer store with things around it that must stay as they are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.canary = directory / "canary"
        self.canary.mkdir()
        (self.canary / "file").write_text("untouched")
        os.utime(self.canary, (1, 1))
        self.blob = directory / "blob"

    def store(self, **settings: Any) -> LayerStore:
        return LayerStore(self.directory / "layers", temporary=self.temporary, settings=quick(**settings))

    async def unpack(self, tar: bytes, *, packed: bytes | None = None, **settings: Any) -> Path:
        packed = gzip.compress(tar, 1) if packed is None else packed
        self.blob.write_bytes(packed)
        layer = Layer(Descriptor(sha(packed), len(packed)), sha(tar))
        return await self.store(**settings).unpack(self.blob, layer)

    async def refuse(self, tar: bytes, reason: str, **settings: Any) -> None:
        with pytest.raises(InvalidArgument, match=reason):
            await self.unpack(tar, **settings)
        assert list((self.directory / "layers").iterdir()) == []

    def check(self) -> None:
        own = {"canary", "damaged", "layers", "receipts", "tmp", "blob"}
        assert {path.name for path in self.directory.iterdir()} <= own
        assert list(self.temporary.iterdir()) == []
        assert [path.name for path in self.canary.iterdir()] == ["file"]
        assert (self.canary / "file").read_text() == "untouched"
        assert self.canary.stat().st_mtime == 1
        assert not Path("/tmp/caddisfly-escaped").exists()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.check()


# ---- what a layer becomes


async def test_files_keep_content_mode_owner_and_time(bench: Bench) -> None:
    layer = await bench.unpack(
        TarFactory()
        .directory("d", mode=0o1777, uid=7, gid=8, mtime=1000)
        .file("d/f", b"hello", mode=0o640, uid=100_000, gid=3_000_000, mtime=2000)
        .symlink("d/l", "/etc/passwd")
        .hardlink("d/h", "d/f")
        .fifo("d/p")
        .tar()
    )
    found = (layer / "d/f").stat()
    assert (layer / "d/f").read_bytes() == b"hello"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (
        0o640,
        100_000,
        3_000_000,
        2000,
    )
    assert (stat.S_IMODE((layer / "d").stat().st_mode), (layer / "d").stat().st_uid) == (0o1777, 7)
    assert (layer / "d").stat().st_mtime == 1000
    assert os.readlink(layer / "d/l") == "/etc/passwd"
    assert (layer / "d/h").stat().st_ino == found.st_ino
    assert stat.S_ISFIFO((layer / "d/p").lstat().st_mode)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
async def test_all_tar_dialects_are_read(bench: Bench, format: int) -> None:
    long = "a" * 90 + "/" + "b" * 90
    layer = await bench.unpack(TarFactory(format).file(long, b"1").file("ü", b"2").symlink("s", "t" * 90).tar())
    assert (layer / long).read_bytes() == b"1"
    assert (layer / "ü").read_bytes() == b"2"
    assert os.readlink(layer / "s") == "t" * 90


async def test_gzip_zstd_and_plain_give_the_same_layer(bench: Bench) -> None:
    tar = TarFactory().file("f", os.urandom(3_000_000)).tar()
    members = gzip.compress(tar[:1000], 1) + gzip.compress(tar[1000:], 1)
    frames = zstandard.compress(tar[:1000]) + zstandard.compress(tar[1000:])
    paths = {await bench.unpack(tar, packed=packed) for packed in (tar, members, zstandard.compress(tar), frames)}
    assert len(paths) == 1
    assert (paths.pop() / "f").stat().st_size == 3_000_000


async def test_set_user_id_bits_and_capabilities_stay(bench: Bench) -> None:
    xattr = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin1")}
    tar = TarFactory().file("su", b"elf", mode=0o4755).file("ping", b"elf", pax_headers=xattr).tar()
    layer = await bench.unpack(tar)
    assert stat.S_IMODE((layer / "su").stat().st_mode) == 0o4755
    assert os.getxattr(layer / "ping", "security.capability") == CAPABILITY


async def test_other_extended_attributes_are_dropped(bench: Bench) -> None:
    xattrs = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.x": "1",
    }
    tar = TarFactory().file("f", pax_headers=xattrs).directory("d", pax_headers=xattrs).tar()
    layer = await bench.unpack(tar)
    assert os.listxattr(layer / "f") == []
    assert os.listxattr(layer / "d") == []


async def test_whiteouts_become_the_overlays(bench: Bench) -> None:
    layer = await bench.unpack(TarFactory().file("a/.wh.gone").file("b/.wh..wh..opq").file("b/new").tar())
    gone = (layer / "a/gone").lstat()
    assert (stat.S_ISCHR(gone.st_mode), gone.st_rdev) == (True, 0)
    assert os.getxattr(layer / "b", "trusted.overlay.opaque") == b"y"
    assert (layer / "b/new").exists()


async def test_a_whiteout_beside_its_own_name_hides_only_what_is_below(bench: Bench) -> None:
    tar = TarFactory().directory("d").file("d/f").file(".wh.d").file(".wh.e").directory("e").file("e/f").tar()
    layer = await bench.unpack(tar)
    for name in ("d", "e"):
        assert os.getxattr(layer / name, "trusted.overlay.opaque") == b"y"
        assert (layer / name / "f").exists()


@pytest.mark.parametrize("later", ["file", "directory", "symlink", "hardlink"])
@pytest.mark.parametrize("earlier", ["file", "directory", "symlink", "whiteout"])
async def test_a_name_may_be_replaced(bench: Bench, earlier: str, later: str) -> None:
    tar = TarFactory().file("other", b"o")
    if earlier == "file":
        tar.file("x", b"old")
    elif earlier == "directory":
        tar.directory("x").file("x/inside").directory("x/deep").file("x/deep/y")
    elif earlier == "symlink":
        tar.symlink("x", "../canary")
    else:
        tar.file(".wh.x")
    if later == "file":
        tar.file("x", b"new")
    elif later == "directory":
        tar.directory("x").file("x/new")
    elif later == "symlink":
        tar.symlink("x", "other")
    else:
        tar.hardlink("x", "other")
    layer = await bench.unpack(tar.tar())
    expected = {"file": stat.S_ISREG, "directory": stat.S_ISDIR, "symlink": stat.S_ISLNK, "hardlink": stat.S_ISREG}
    assert expected[later]((layer / "x").lstat().st_mode)


async def test_case_and_unicode_forms_are_different_names(bench: Bench) -> None:
    names = ["A", "a", "\u00e9", "e\u0301", "ﬁ", "fi"]
    tar = TarFactory()
    for name in names:
        tar.file(name, name.encode())
    layer = await bench.unpack(tar.tar())
    assert sorted(path.name for path in layer.iterdir()) == sorted(names)
    assert all((layer / name).read_text() == name for name in names)


async def test_names_that_are_not_text_are_kept(bench: Bench) -> None:
    layer = await bench.unpack(header(b"\xff\xfe") + bytes(1024))
    assert os.listdir(os.fsencode(layer)) == [b"\xff\xfe"]


async def test_an_empty_layer_is_an_empty_directory(bench: Bench) -> None:
    assert list((await bench.unpack(bytes(1024))).iterdir()) == []


async def test_the_same_layer_twice_is_one_directory(bench: Bench) -> None:
    tar = TarFactory().file("f").tar()
    assert await bench.unpack(tar) == await bench.unpack(tar)


# ---- what it cannot do

OUT = "../../canary/escaped"

REFUSED: dict[str, tuple[TarFactory, str]] = {
    "parent in a name": (TarFactory().file(OUT), "contains `..`"),
    "parent deep in a name": (TarFactory().directory("a").file(f"a/../{OUT}"), "contains `..`"),
    "absolute name": (TarFactory().file("/tmp/caddisfly-escaped"), "absolute name"),
    "absolute directory": (TarFactory().directory("/tmp/caddisfly-escaped"), "absolute name"),
    "link as parent": (TarFactory().symlink("d", "../../canary").file("d/escaped"), "parent that is a link"),
    "absolute link as parent": (TarFactory().symlink("d", "/tmp").file("d/caddisfly-escaped"), "parent that is a link"),
    "link to a directory of the layer as parent": (
        TarFactory().directory("real").symlink("d", "real").file("d/f"),
        "parent that is a link",
    ),
    "chain of links": (
        TarFactory().symlink("a", ".").symlink("b", "a/..").file("b/../../canary/escaped"),
        "contains `..`",
    ),
    "link as parent of a directory": (
        TarFactory().symlink("d", "../../canary").directory("d/escaped"),
        "parent that is a link",
    ),
    "link as parent of a link": (
        TarFactory().symlink("d", "../../canary").symlink("d/escaped", "x"),
        "parent that is a link",
    ),
    "directory replaced by a link, then used": (
        TarFactory().directory("d").file("d/a").symlink("d", "../../canary").file("d/escaped"),
        "parent that is a link",
    ),
    "file as parent": (TarFactory().file("f").file("f/g"), "parent that is a link or not a directory"),
    "hard link out": (TarFactory().hardlink("h", "../../canary/file"), "contains `..`"),
    "absolute hard link": (TarFactory().hardlink("h", "/etc/passwd"), "absolute name"),
    "hard link through a link": (
        TarFactory().symlink("d", "../../canary").hardlink("h", "d/file"),
        "parent that is a link",
    ),
    "hard link to a directory": (TarFactory().directory("d").hardlink("h", "d"), "not a file"),
    "hard link to nothing": (TarFactory().hardlink("h", "missing"), "not in the layer"),
    "hard link to what it replaces": (
        TarFactory().file("a/b").hardlink("a", "a/b"),
        "not a directory|not in the layer",
    ),
    "hard link to a whiteout": (TarFactory().file(".wh.x").hardlink("h", "x"), "not a file"),
    "hard link to the root": (TarFactory().hardlink("h", "."), "hard link to the root"),
    "whiteout through a link": (TarFactory().symlink("d", "../../canary").file("d/.wh.file"), "parent that is a link"),
    "opaque mark through a link": (
        TarFactory().symlink("d", "../../canary").file("d/.wh..wh..opq"),
        "parent that is a link",
    ),
    "whiteout of the parent": (TarFactory().file("d/.wh..."), "whiteout of nothing"),
    "whiteout of itself": (TarFactory().file("d/.wh.."), "whiteout of nothing"),
    "whiteout of nothing": (TarFactory().file("d/.wh."), "whiteout of nothing"),
    "file in place of the root": (TarFactory().file("."), "replace the root"),
    "link in place of the root": (TarFactory().symlink("./", "/"), "replace the root"),
    "deep path": (TarFactory().file("/".join("d" * 200)), "deeper than"),
    "long name": (TarFactory().file("n" * 300), "longer or deeper"),
    "endless path": (TarFactory().file("/".join(["d" * 250] * 20)), "longer or deeper"),
    "endless link": (TarFactory().symlink("l", "t" * 5000), "too long target"),
    "empty link": (TarFactory().symlink("l", ""), "empty or too long"),
    "too many entries": (TarFactory().raw(b"".join(header(b"f%d" % n) for n in range(1100))), "more than 1000 entries"),
    "too many directories in few names": (
        TarFactory().raw(b"".join(header(b"%d/" % n + b"d/" * 40 + b"f") for n in range(30))),
        "more than 1000 entries",
    ),
    "unknown capabilities": (
        TarFactory().file("f", pax_headers={"SCHILY.xattr.security.capability": "nonsense"}),
        "file capabilities",
    ),
    "name with a zero byte": (TarFactory().file("f", pax_headers={"path": "a\0b"}), "zero byte"),
    "sparse claim of a tebibyte": (
        TarFactory().file("f", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 40)}),
        "sparse",
    ),
    "old sparse claim": (TarFactory().raw(header(b"f", kind=b"S")), "sparse"),
    "size that is not there": (TarFactory().raw(header(b"f", size=1 << 32)), "middle of a file"),
    "negative size": (TarFactory().file("f", pax_headers={"size": "-1"}), "not a number"),
    "impossible owner": (TarFactory().file("f", pax_headers={"uid": str(1 << 40)}), "cannot be"),
    "extension that names its way out": (TarFactory().file("f", pax_headers={"path": OUT}), "contains `..`"),
    "extension whose link is a way out": (
        TarFactory().hardlink("h", "x", pax_headers={"linkpath": "../../canary/file"}),
        "contains `..`",
    ),
    "name put together out of two halves": (
        TarFactory().raw(header(b"escaped", prefix=b"../../canary")),
        "contains `..`",
    ),
    "GNU long name out": (
        TarFactory().raw(header(b"L", kind=b"L", size=len(OUT)) + OUT.encode().ljust(512, b"\0") + header(b"f")),
        "contains `..`",
    ),
    "extension without an end": (
        TarFactory().raw(header(b"x", kind=b"x", size=12) + b"12 path=a\0bc".ljust(512, b"\0")),
        "cannot be read",
    ),
    "extension of nothing": (TarFactory().raw(header(b"x", kind=b"x", size=2) + b"0 ".ljust(512, b"\0")), "cannot be"),
    "base-256 size beyond everything": (
        TarFactory().raw(header(b"f").replace(b"00000000000\0", b"\x80" + b"\x7f" * 11, 1)),
        "checksum|middle of a file|cannot be",
    ),
    "huge extension": (TarFactory().raw(header(b"x", kind=b"x", size=1 << 30)), "extension header of"),
    "broken extension": (
        TarFactory().raw(header(b"x", kind=b"x", size=10) + b"99 a=b\n".ljust(512, b"\0")),
        "cannot be",
    ),
    "unknown type": (TarFactory().raw(header(b"f", kind=b"Z")), "unknown type"),
    "broken header": (TarFactory().file("f").raw(b"\1" * 512), "checksum|not a number"),
    "half a header": (TarFactory().file("f").raw(b"\1" * 100), "middle of a header"),
    "data after the end": (TarFactory().raw(bytes(512) + header(b"f")), "after an end mark"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_hostile_layer_is_refused(bench: Bench, name: str) -> None:
    tar, reason = REFUSED[name]
    await bench.refuse(tar.unfinished(), reason)


@pytest.mark.parametrize("name", [n for n in REFUSED if "link" in n or "parent" in n])
async def test_it_is_refused_without_the_process_root_too(tmp_path: Path, name: str) -> None:
    """The extractor alone, not confined to its directory: the second wall must not be what holds."""
    from caddisfly.host.images.extract import TreeWriter
    from caddisfly.host.images.tar import BadArchive, TarReader

    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/file").write_text("untouched")
    target = tmp_path / "tmp/layer"
    target.mkdir(parents=True)
    root = os.open(target, os.O_RDONLY)
    writer = TreeWriter(root, max_entries=1000)
    reader = TarReader(io.BytesIO(REFUSED[name][0].unfinished()).read)

    def extract() -> None:
        for entry in reader:
            writer.add(entry, reader.chunks())

    with pytest.raises(BadArchive):
        extract()
    writer.close()
    os.close(root)
    assert [path.name for path in (tmp_path / "canary").iterdir()] == ["file"]
    assert not Path("/tmp/caddisfly-escaped").exists()


async def test_privileged_attributes_of_a_layer_are_dropped_with_the_overlays_among_them(bench: Bench) -> None:
    """`trusted.overlay.redirect` would let a layer show any directory of the store."""
    named = {"trusted.overlay.redirect": "/etc", "trusted.overlay.metacopy": "", "security.selinux": "x", "user.a": "b"}
    pax = {f"SCHILY.xattr.{name}": value for name, value in named.items()}
    path = await bench.unpack(TarFactory().directory("d", pax_headers=pax).file("d/f", pax_headers=pax).tar())
    assert os.listxattr(path / "d") == os.listxattr(path / "d/f") == []


async def test_the_last_of_many_entries_of_one_name_counts(bench: Bench) -> None:
    tar = TarFactory()
    for number in range(300):
        tar.file("same", b"%d" % number).symlink("same", "/etc/shadow").directory("same")
    path = await bench.unpack(tar.file("same", b"last").tar())
    assert [(entry.name, entry.read_bytes()) for entry in path.iterdir()] == [("same", b"last")]


async def test_a_link_to_the_host_is_replaced_and_never_written_through(bench: Bench) -> None:
    tar = TarFactory().symlink("out", "../../canary/file").file("out", b"overwritten").tar()
    assert (await bench.unpack(tar) / "out").read_bytes() == b"overwritten"


async def test_links_in_a_circle_and_files_that_hang_are_only_names(bench: Bench) -> None:
    tar = TarFactory().symlink("a", "b").symlink("b", "a").symlink("self", "self").fifo("pipe").tar()
    assert sorted(entry.name for entry in (await bench.unpack(tar)).iterdir()) == ["a", "b", "pipe", "self"]


async def test_a_million_entries_end_at_the_limit_and_leave_nothing(bench: Bench) -> None:
    """Half a gigabyte of headers in less than three megabytes."""
    block = b"".join(header(b"f%05d" % number) for number in range(10_000))
    packed = zstandard.compress(block * 100)
    assert len(packed) < 4 << 20
    before = time.monotonic()
    with pytest.raises(InvalidArgument, match=r"more than 50000 entries"):
        await bench.unpack(b"", packed=packed, max_entries=50_000, max_layer_bytes=1 << 30)
    assert time.monotonic() - before < 20
    assert list((bench.directory / "layers").iterdir()) == []


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_a_bomb_inside_an_extension_header_is_not_read(bench: Bench, compression: str) -> None:
    tar = header(b"x", kind=b"x", size=1 << 33) + bytes(8 << 20)
    packed = gzip.compress(tar) if compression == "gzip" else zstandard.compress(tar)
    with pytest.raises(InvalidArgument, match="extension header of"):
        await bench.unpack(tar, packed=packed)


async def test_a_zstd_window_that_would_eat_the_memory_is_refused(bench: Bench) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    big = zstandard.ZstdCompressor(compression_params=parameters)
    with io.BytesIO() as out:
        with big.stream_writer(out, closefd=False) as stream:
            stream.write(TarFactory().file("f", bytes(1 << 20)).tar())
        packed = out.getvalue()
    with pytest.raises(InvalidArgument, match="cannot be decompressed"):
        await bench.unpack(b"", packed=packed)


async def test_devices_are_dropped(bench: Bench) -> None:
    tar = (
        TarFactory().device("null").device("sda", major=8, minor=0, block=True).device("w", major=0, minor=0).file("f")
    )
    assert [path.name for path in (await bench.unpack(tar.tar())).iterdir()] == ["f"]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_a_decompression_bomb_ends_at_the_limit(bench: Bench, compression: str) -> None:
    size = 1 << 30
    tar = header(b"zeros", size=size)
    if compression == "gzip":
        member = gzip.compress(bytes(8 << 20), 9)
        packed = gzip.compress(tar) + member * (size >> 23)
    else:
        frame = zstandard.compress(bytes(8 << 20))
        packed = zstandard.compress(tar) + frame * (size >> 23)
    before = time.monotonic()
    with pytest.raises(InvalidArgument, match="larger than 67108864 bytes"):
        await bench.unpack(tar, packed=packed)
    assert time.monotonic() - before < 5


@pytest.mark.parametrize("packed", [b"\x1f\x8b nonsense", b"\x28\xb5\x2f\xfd nonsense", b"plain nonsense"])
async def test_what_cannot_be_decompressed_is_refused(bench: Bench, packed: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot be decompressed|middle of a header"):
        await bench.unpack(b"", packed=packed)


async def test_a_truncated_layer_is_refused(bench: Bench) -> None:
    tar = TarFactory().file("f", os.urandom(100_000)).tar()
    with pytest.raises(InvalidArgument, match="cannot be decompressed"):
        await bench.unpack(tar, packed=gzip.compress(tar)[:-1000])


async def test_both_digests_are_verified(bench: Bench) -> None:
    tar = TarFactory().file("f").tar()
    packed = gzip.compress(tar)
    bench.blob.write_bytes(packed)
    wrong = "sha256:" + "0" * 64
    with pytest.raises(InvalidArgument, match="its diff_id is"):
        await bench.store().unpack(bench.blob, Layer(Descriptor(sha(packed), len(packed)), wrong))
    with pytest.raises(InvalidArgument, match="its digest is"):
        await bench.store().unpack(bench.blob, Layer(Descriptor(wrong, len(packed)), sha(tar)))


async def test_the_end_of_the_archive_is_not_the_end_of_the_digest(bench: Bench) -> None:
    """What follows the end marks belongs to the digest, so that nobody can append to a layer."""
    tar = TarFactory().file("f").tar()
    with pytest.raises(InvalidArgument, match="its diff_id is"):
        await bench.unpack(tar, packed=gzip.compress(tar + b"appended"))


async def test_an_endless_layer_ends_with_the_time(bench: Bench) -> None:
    os.mkfifo(bench.blob)
    held = os.open(bench.blob, os.O_RDWR)
    try:
        layer = Layer(Descriptor("sha256:" + "0" * 64, 1), "sha256:" + "0" * 64)
        with pytest.raises(InvalidArgument, match=r"longer than 0\.2 seconds"):
            await bench.store(unpack_timeout_s=0.2).unpack(bench.blob, layer)
    finally:
        os.close(held)

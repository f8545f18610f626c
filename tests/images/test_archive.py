"""Images from files, made by other people's tools."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from caddisfly.host.images.build import tar_of, write_busybox_image, write_oci_layout
from caddisfly.host.images.manifest import machine_architecture
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import InvalidArgument
from tests.images.factories import ImageParts, TarFactory, index_entry, index_of, sha

LAYERS = [tar_of({"etc/a": "1", "etc/b": "2"}), tar_of({"etc/.wh.a": "", "etc/c": "3"})]
TOO_MANY = json.dumps([{"Config": "c", "Layers": ["l"] * 200}]).encode()
CONFIG = {"Cmd": ["/bin/x"], "Env": ["A=1"]}


def skopeo(source: str, target: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", source, target], check=True, timeout=30)


def run_inside(root: Path, script: str) -> bytes:
    return subprocess.run(["chroot", root, "/bin/sh", "-c", script], capture_output=True, check=True).stdout


def docker_archive(parts: ImageParts, tars: list[bytes], **changes: Any) -> bytes:
    """What `docker save` wrote before it wrote OCI layouts."""
    out = TarFactory()
    config = parts.config_bytes
    names = []
    for number, tar in enumerate(tars):
        out.directory(f"{number}").file(f"{number}/layer.tar", tar)
        names.append(f"{number}/layer.tar")
    out.file("config.json", config)
    listing = {"Config": "config.json", "RepoTags": ["x:1"], "Layers": names} | changes
    return out.file("manifest.json", json.dumps([listing]).encode()).tar()


async def check(store: ImageStore, path: Path) -> None:
    image = await store.import_archive(path, name="mine:1")
    assert str(image.reference).startswith("registry-1.docker.io/library/mine:1@sha256:")
    assert (image.config.cmd, image.config.env) == (("/bin/x",), ("A=1",))
    fetched = await store.fetch(await store.resolve("mine:1"))
    root = await store.roots.mount("check", fetched.layer_dirs, size_mb=32)
    assert sorted(file.name for file in (root / "etc").iterdir()) == ["b", "c"]
    await store.roots.unmount("check")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_an_oci_layout(store: ImageStore, tmp_path: Path, compression: Any) -> None:
    write_oci_layout(tmp_path / "layout", layers=LAYERS, config=CONFIG, compression=compression)
    await check(store, tmp_path / "layout")


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
async def test_what_skopeo_writes(store: ImageStore, tmp_path: Path, form: str) -> None:
    write_oci_layout(tmp_path / "layout", layers=LAYERS, config=CONFIG)
    skopeo(f"oci:{tmp_path}/layout:latest", f"{form}:{tmp_path}/out:mine:1")
    await check(store, tmp_path / "out")


async def test_a_compressed_archive(store: ImageStore, tmp_path: Path) -> None:
    write_oci_layout(tmp_path / "layout", layers=LAYERS, config=CONFIG)
    skopeo(f"oci:{tmp_path}/layout:latest", f"docker-archive:{tmp_path}/out.tar:mine:1")
    (tmp_path / "out.tar.gz").write_bytes(gzip.compress((tmp_path / "out.tar").read_bytes()))
    await check(store, tmp_path / "out.tar.gz")


async def test_docker_save_of_old(store: ImageStore, tmp_path: Path) -> None:
    parts = ImageParts(*LAYERS, config=CONFIG)
    (tmp_path / "saved.tar").write_bytes(docker_archive(parts, LAYERS))
    await check(store, tmp_path / "saved.tar")


async def test_docker_save_with_a_layer_written_as_a_link(store: ImageStore, tmp_path: Path) -> None:
    parts = ImageParts(LAYERS[0], LAYERS[1], LAYERS[1], config=CONFIG)
    names = ["a/layer.tar", "b/layer.tar", "c/layer.tar"]
    tar = TarFactory().file("a/layer.tar", LAYERS[0]).file("b/layer.tar", LAYERS[1])
    tar.symlink("c/layer.tar", "../b/layer.tar").file("config.json", parts.config_bytes)
    tar.file("manifest.json", json.dumps([{"Config": "config.json", "Layers": names}]).encode())
    (tmp_path / "saved.tar").write_bytes(tar.tar())
    await check(store, tmp_path / "saved.tar")


async def test_importing_twice_is_the_same_image(store: ImageStore, tmp_path: Path) -> None:
    parts = ImageParts(*LAYERS, config=CONFIG)
    (tmp_path / "saved.tar").write_bytes(docker_archive(parts, LAYERS))
    first = await store.import_archive(tmp_path / "saved.tar", name="a")
    second = await store.import_archive(tmp_path / "saved.tar", name="b")
    assert first.digest == second.digest


async def test_every_blob_of_a_layout_is_verified(store: ImageStore, tmp_path: Path) -> None:
    write_oci_layout(tmp_path / "good", layers=LAYERS, config=CONFIG)
    for number, path in enumerate(sorted((tmp_path / "good/blobs/sha256").iterdir())):
        bad = tmp_path / f"bad-{number}"
        shutil.copytree(tmp_path / "good", bad)
        (bad / "blobs/sha256" / path.name).write_bytes(path.read_bytes() + b" ")
        with pytest.raises(InvalidArgument, match="digest"):
            await store.import_archive(bad, name="mine")
    assert store.list() == []
    assert list((store.filesystem.path / "blobs/sha256").iterdir()) == []


async def test_the_layers_of_docker_save_are_verified_against_the_config(store: ImageStore, tmp_path: Path) -> None:
    parts = ImageParts(*LAYERS, config=CONFIG)
    (tmp_path / "saved.tar").write_bytes(docker_archive(parts, [LAYERS[0], LAYERS[0]]))
    with pytest.raises(InvalidArgument, match="not what its digest says"):
        await store.import_archive(tmp_path / "saved.tar", name="mine")
    assert list((store.filesystem.path / "blobs/sha256").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "neither an index.json"),
        (b"not a tar" * 1000, "not a readable tar"),
        (b"\x1f\x8b not gzip", "not a readable tar"),
        (TarFactory().file("x").tar(), "neither an index.json"),
        (TarFactory().file("manifest.json", b"{").tar(), "not JSON"),
        (TarFactory().file("manifest.json", b"[]").tar(), "holds 0 images"),
        (TarFactory().file("manifest.json", b'[{"Config":"a"},{"Config":"b"}]').tar(), "holds 2 images"),
        (TarFactory().file("manifest.json", b"[{}]").tar(), "no `Config`"),
        (TarFactory().file("manifest.json", b'[{"Config":"c","Layers":[]}]').tar(), "c is missing"),
        (TarFactory().file("manifest.json", TOO_MANY).tar(), "200 layers"),
        (TarFactory().file("index.json", b'{"manifests":[{"digest":"../../etc/passwd"}]}').tar(), "not a digest"),
        (TarFactory().symlink("manifest.json", "/etc/passwd").tar(), "neither an index.json"),
        (TarFactory().file("manifest.json", b"x" * 600_000).tar()[:-90_000], "middle of a file|not JSON"),
    ],
)  # fmt: skip
async def test_a_bad_archive_is_refused_by_name(store: ImageStore, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(InvalidArgument, match=reason):
        await store.import_archive(tmp_path / "bad.tar", name="mine")


async def test_a_layout_directory_cannot_read_the_hosts_files(store: ImageStore, tmp_path: Path) -> None:
    secret = b'{"secret": true}'
    (tmp_path / "secret").write_bytes(secret)
    write_oci_layout(tmp_path / "layout", layers=LAYERS)
    index = json.loads((tmp_path / "layout/index.json").read_bytes())
    index["manifests"][0]["digest"] = sha(secret)
    (tmp_path / "layout/index.json").write_text(json.dumps(index))
    (tmp_path / "layout/blobs/sha256" / sha(secret)[7:]).symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidArgument, match="is missing"):
        await store.import_archive(tmp_path / "layout", name="mine")


async def test_a_missing_file_is_a_named_error(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not there"):
        await store.import_archive(tmp_path / "nothing.tar", name="mine")


async def test_the_busybox_image_runs(store: ImageStore, tmp_path: Path) -> None:
    digest = write_busybox_image(tmp_path / "layout", config={"Cmd": ["/bin/true"]})
    assert digest == write_busybox_image(tmp_path / "again", config={"Cmd": ["/bin/true"]})
    skopeo(f"oci:{tmp_path}/layout:latest", f"dir:{tmp_path}/dir")  # others read it too
    image = await store.fetch(await store.import_archive(tmp_path / "layout", name="busybox"))
    assert image.resolved.digest == digest
    root = await store.roots.mount("m1", image.layer_dirs, size_mb=64)
    assert run_inside(root, "id -u; echo > /x") == b"0\n"


def test_the_factory_and_the_standard_library_agree() -> None:
    with tarfile.open(fileobj=io.BytesIO(LAYERS[0])) as tar:
        assert tar.getnames() == ["etc", "etc/a", "etc/b"]


async def test_a_zstd_archive(store: ImageStore, tmp_path: Path) -> None:
    write_oci_layout(tmp_path / "layout", layers=LAYERS, config=CONFIG)
    skopeo(f"oci:{tmp_path}/layout:latest", f"oci-archive:{tmp_path}/out.tar:mine:1")
    (tmp_path / "out.tar.zst").write_bytes(zstandard.compress((tmp_path / "out.tar").read_bytes()))
    await check(store, tmp_path / "out.tar.zst")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
async def test_docker_save_with_compressed_layers(store: ImageStore, tmp_path: Path, compress: Any) -> None:
    parts = ImageParts(*LAYERS, config=CONFIG)
    (tmp_path / "saved.tar").write_bytes(docker_archive(parts, [compress(layer) for layer in LAYERS]))
    await check(store, tmp_path / "saved.tar")


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
async def test_one_of_several_images_that_skopeo_wrote(store: ImageStore, tmp_path: Path, form: str) -> None:
    target = tmp_path / "out"
    for number, layers in enumerate((LAYERS[:1], LAYERS)):
        write_oci_layout(tmp_path / f"layout{number}", layers=layers, config=CONFIG)
    if form == "docker-archive":
        for number in (0, 1):  # skopeo cannot add to one; docker save writes several images as one list
            skopeo(f"oci:{tmp_path}/layout{number}:latest", f"docker-archive:{tmp_path}/{number}.tar:mine:{number}")
        merge_docker_archives(tmp_path / "0.tar", tmp_path / "1.tar", target=target)
    else:
        for number in (0, 1):
            skopeo(f"oci:{tmp_path}/layout{number}:latest", f"oci:{tmp_path}/both:{number}")
        if form == "oci":
            target = tmp_path / "both"
        else:
            with tarfile.open(target, "w") as tar:
                tar.add(tmp_path / "both", arcname=".")
    with pytest.raises(InvalidArgument, match="holds 2 images") as caught:
        await store.import_archive(target, name="mine:1")
    assert "--select" in caught.value.next
    with pytest.raises(InvalidArgument, match="0 images in it are called `nope`"):
        await store.import_archive(target, name="mine:1", select="nope")
    image = await store.import_archive(target, name="mine:1", select="1")
    assert len(image.layers) == 2


def merge_docker_archives(*archives: Path, target: Path) -> None:
    listing: list[Any] = []
    with tarfile.open(target, "w") as merged:
        for archive in archives:
            with tarfile.open(archive) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if member.name == "manifest.json":
                        assert content is not None
                        listing += json.loads(content.read())
                    elif member.name != "repositories":
                        merged.addfile(member, content)
        data = json.dumps(listing).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        merged.addfile(info, io.BytesIO(data))


async def test_one_image_under_two_names_is_one_image(store: ImageStore, tmp_path: Path) -> None:
    write_oci_layout(tmp_path / "layout", layers=LAYERS, config=CONFIG)
    for tag in ("1", "latest"):
        skopeo(f"oci:{tmp_path}/layout:latest", f"oci:{tmp_path}/both:{tag}")
    await check(store, tmp_path / "both")


async def test_a_layout_for_several_platforms(store: ImageStore, tmp_path: Path) -> None:
    """As `skopeo copy --all` writes it: an index in the index."""
    layout = tmp_path / "layout"
    digest = write_oci_layout(layout, layers=LAYERS, config=CONFIG)
    manifest = (layout / "blobs/sha256" / digest[7:]).read_bytes()
    index = index_of(index_entry(b"elsewhere", "s390x"), index_entry(manifest, machine_architecture()))
    (layout / "blobs/sha256" / sha(index)[7:]).write_bytes(index)
    entry = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": sha(index), "size": len(index)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    await check(store, layout)

"""Layers, unpacked once each: `layers/<diff_id>`, shared by every image and every sandbox that has them.

The key is the digest of the uncompressed layer, so that one layer compressed in two ways is still one directory. A
directory under `layers` is whole: it was filled under another name by a separate process (see `unpack`), synced, and
then renamed. Two that unpack the same layer at once both do honest work and the first rename wins.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from pathlib import Path
from typing import IO

import caddisfly
from caddisfly.host.images.blobs import disk_problem
from caddisfly.host.images.durable import remove_tree, sync_directory
from caddisfly.host.images.image import Layer
from caddisfly.host.images.receipts import Receipt, Receipts, stamp
from caddisfly.host.images.reference import is_digest
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.images.unpack import Request
from caddisfly.model.errors import Internal, InvalidArgument, Problem

_MODULE, _SEALER = "caddisfly.host.images.unpack", "caddisfly.host.images.receipts"
_MAX_ANSWER = 64 << 10


class LayerStore:
    """The unpacked layers of one store."""

    def __init__(self, directory: Path, *, temporary: Path, settings: ImageSettings) -> None:
        self._directory = directory
        self._temporary = temporary
        self._settings = settings
        self._receipts = Receipts(directory.parent / "receipts")
        self._damaged = directory.parent / "damaged"
        self._sources: dict[str, IO[bytes]] = {}
        # Unpacking is pure CPU: more at once than there are cores only makes each of them later.
        self._slots = asyncio.Semaphore(os.cpu_count() or 1)
        for path in (directory, self._damaged):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)

    def path(self, diff_id: str) -> Path:
        return self._directory / diff_id.removeprefix("sha256:")

    def has(self, diff_id: str) -> bool:
        return self.path(diff_id).exists()

    def names(self) -> set[str]:
        """The directory names of all layers."""
        return {path.name for path in self._directory.iterdir()}

    def intact(self, diff_id: str) -> bool:
        """Whether it is there and looks as it did when it was unpacked. Blocks for a tenth of a millisecond."""
        receipt = self._receipts.get(self.path(diff_id).name)
        try:
            return self.has(diff_id) if receipt is None else stamp(self.path(diff_id)) == receipt.stamp
        except OSError:
            return False

    def size(self, diff_id: str) -> int:
        """Bytes of what was unpacked, 0 when it is not known yet."""
        receipt = self._receipts.get(self.path(diff_id).name)
        return receipt.bytes if receipt else 0

    def unpacked(self, diff_id: str) -> int:
        """How much of the blob an unpacking that is under way has read: parent and child share the file's position."""
        source = self._sources.get(diff_id)
        return os.lseek(source.fileno(), 0, os.SEEK_CUR) if source else 0

    def unpacking(self, diff_id: str) -> bool:
        return diff_id in self._sources

    def unsealed(self) -> list[str]:
        """The directory names of layers that were not read in full yet."""
        return [name for name in self.names() if not ((found := self._receipts.get(name)) and found.seal)]

    async def verify(self, name: str) -> bool:
        """Read a layer in full and compare it with what it was; one that was never read is taken as it is."""
        path = self._directory / name
        receipt = self._receipts.get(name)
        if receipt is not None and not self.intact(f"sha256:{name}"):
            return False
        command = (sys.executable, "-m", _SEALER, str(path))
        answer = await self._answer_of(command, stdin=None, timeout_s=self._settings.unpack_timeout_s)
        found, total = answer.get("seal"), answer.get("bytes")
        if not isinstance(found, str) or not isinstance(total, int):
            return False
        if receipt is not None and receipt.seal:
            return receipt.seal == found
        if path.exists():
            self._receipts.set(name, Receipt(receipt.bytes if receipt else total, stamp(path), found))
        return True

    def quarantine(self, name: str) -> None:
        """Take a damaged layer out of use. Its files stay as long as a Machine runs on them."""
        (self._directory / name).rename(self._damaged / f"{name}.{secrets.token_hex(4)}")
        self._receipts.drop(name)

    def quarantined(self, *, in_use: set[str]) -> list[Path]:
        """What was taken out of use and can be deleted."""
        return [path for path in self._damaged.iterdir() if path.stem not in in_use]

    async def unpack(self, blob: Path, layer: Layer) -> Path:
        """Verify and unpack a downloaded layer. Leaves the whole directory or nothing."""
        if not is_digest(layer.diff_id):
            raise InvalidArgument(f"`{layer.diff_id[:80]}` is not a diff_id", why="only sha256 is accepted")
        final = self.path(layer.diff_id)
        target = self._temporary / f"layer-{secrets.token_hex(8)}"
        try:
            async with self._slots:
                target.mkdir(mode=0o755)
                answer = await self._run(blob, layer, target)
            self._check(answer, layer)
            # Somebody else may have been faster; their directory has the same content.
            if not final.exists():
                target.rename(final)
                size = answer["bytes"]
                assert isinstance(size, int)
                self._receipts.set(final.name, Receipt(size, stamp(final)))
            await asyncio.to_thread(sync_directory, self._directory)
        except OSError as error:
            if not final.exists():
                raise disk_problem(error, doing=f"unpack layer {layer.diff_id}", disk=self._directory) from error
        finally:
            if target.exists():
                await asyncio.to_thread(remove_tree, target)
        return final

    def set_aside(self, name: str) -> Path:
        """Take a layer out of use at once; the tree that is left to be deleted at leisure."""
        trash = self._temporary / f"trash-{secrets.token_hex(8)}"
        (self._directory / name).rename(trash)
        self._receipts.drop(name)
        return trash

    async def _run(self, blob: Path, layer: Layer, target: Path) -> dict[str, object]:
        settings = self._settings
        request = Request(
            target=str(target),
            digest=layer.blob.digest,
            diff_id=layer.diff_id,
            max_bytes=settings.max_layer_bytes,
            max_entries=settings.max_entries,
            cpu_s=int(settings.unpack_timeout_s) + 1,
            memory_mb=settings.unpack_memory_mb,
        )
        with blob.open("rb") as source:
            self._sources[layer.diff_id] = source
            try:
                command = (sys.executable, "-m", _MODULE, request.to_json())
                return await self._answer_of(command, stdin=source, timeout_s=settings.unpack_timeout_s)
            except TimeoutError:
                return {"refused": f"unpacking it took longer than {settings.unpack_timeout_s:g} seconds"}
            finally:
                self._sources.pop(layer.diff_id, None)

    async def _answer_of(
        self, command: tuple[str, ...], *, stdin: IO[bytes] | None, timeout_s: float
    ) -> dict[str, object]:
        """Run one of our own short processes, which answers with one line of JSON."""
        environment = {"PYTHONPATH": str(Path(caddisfly.__file__).parents[1]), "PATH": os.defpath, "LANG": "C.UTF-8"}
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin or asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            limit=_MAX_ANSWER,
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            answer = json.loads(out)
        except ValueError:
            if process.returncode is not None and process.returncode < 0:
                return {
                    "refused": f"unpacking it was ended by signal {-process.returncode}: over a limit, or no memory"
                }
            raise Internal(
                f"{command[2]} failed",
                why=err.decode(errors="replace").strip().rpartition("\n")[2][:500] or f"status {process.returncode}",
            ) from None
        return dict(answer)

    def _check(self, answer: dict[str, object], layer: Layer) -> None:
        problem: Problem | None = None
        if why := answer.get("refused"):
            problem = InvalidArgument(
                f"layer {layer.blob.digest} is refused",
                why=str(why),
                next="rebuild the image; nothing of the layer was kept",
                status="layer_refused",
            )
        elif "errno" in answer:
            code = answer["errno"]
            error = OSError(code if isinstance(code, int) else 0, str(answer.get("failed", "")))
            problem = disk_problem(error, doing=f"unpack layer {layer.diff_id}", disk=self._directory)
        if problem is not None:
            raise problem

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

import caddisfly
from caddisfly.host.images.blobs import disk_problem
from caddisfly.host.images.durable import remove_tree, sync_directory
from caddisfly.host.images.image import Layer
from caddisfly.host.images.reference import is_digest
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.images.unpack import Request
from caddisfly.model.errors import Internal, InvalidArgument, Problem

_MODULE = "caddisfly.host.images.unpack"
_MAX_ANSWER = 64 << 10


class LayerStore:
    """The unpacked layers of one store."""

    def __init__(self, directory: Path, *, temporary: Path, settings: ImageSettings) -> None:
        self._directory = directory
        self._temporary = temporary
        self._settings = settings
        # Unpacking is pure CPU: more at once than there are cores only makes each of them later.
        self._slots = asyncio.Semaphore(os.cpu_count() or 1)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def path(self, diff_id: str) -> Path:
        return self._directory / diff_id.removeprefix("sha256:")

    def has(self, diff_id: str) -> bool:
        return self.path(diff_id).exists()

    def names(self) -> set[str]:
        """The directory names of all layers."""
        return {path.name for path in self._directory.iterdir()}

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
        environment = {"PYTHONPATH": str(Path(caddisfly.__file__).parents[1]), "PATH": os.defpath, "LANG": "C.UTF-8"}
        with blob.open("rb") as source:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE, request.to_json()),
                stdin=source,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                limit=_MAX_ANSWER,
            )
        try:
            async with asyncio.timeout(settings.unpack_timeout_s):
                out, err = await process.communicate()
        except TimeoutError:
            return {"refused": f"unpacking it took longer than {settings.unpack_timeout_s:g} seconds"}
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
                f"the layer extractor failed on {layer.diff_id}",
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

"""A computer that is made up: images that are never fetched, links to nowhere, sandboxes that run nothing.

The agent on it is the real one, with its journal, its operations and its calls, so what a client sees is what it would
see of a real host. How a Machine acts is said in four places, each over the one before: for all, for the image it was
created from, in its environment, in its metadata (drivers/conduct.py has the words).
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from caddisfly.host import guest
from caddisfly.host.capacity import Capacity
from caddisfly.host.checks.probe import Finding
from caddisfly.host.drivers.conduct import Conduct, Script, Word
from caddisfly.host.drivers.driver import Limits, Sandbox
from caddisfly.host.drivers.mock import MockDriver
from caddisfly.host.drivers.several import DriverOf, Several
from caddisfly.host.guest import Surroundings
from caddisfly.host.images.image import Collected, Image, ImageConfig, LayerStatus, ResolvedImage, StoredImage, Verified
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.rootfs import LaidOut
from caddisfly.host.images.settings import Credentials
from caddisfly.host.isolation import wanted
from caddisfly.host.journal.journal import Journal
from caddisfly.host.network.network import Attachment
from caddisfly.host.settings import HostSettings
from caddisfly.model.check import CheckConfig
from caddisfly.model.config import Config
from caddisfly.model.errors import InvalidArgument, NotFound, Unimplemented
from caddisfly.model.machine import Machine

METADATA, ENV = "caddis-dev", "CADDIS_DEV"
REPOSITORY = "caddis-dev/"
"""`caddis-dev/oom` and `caddis-dev/exit-after:2s` are images that act as their name says."""
MISSING = "missing"
"""The tag that no registry has."""
_JOBS = ("fly_app_release_command", "fly_app_test_machine_command")
"""Groups whose Machines are there to run one command."""
_NOWHERE = Path("/nowhere")


class Fate:
    """What becomes of Machines. The seed and the number of a start decide it, whoever is started."""

    def __init__(self, *, chaos: Script, images: tuple[tuple[str, Script], ...] = (), seed: int = 0) -> None:
        """`images` are shell patterns with what they stand for; the last that fits counts."""
        self._chaos, self._images, self._seed = chaos, images, seed
        self._starts = count()

    def script(self, config: Config, image: str) -> Script:
        """Of what runs from this image. Raises `InvalidArgument` for a word that there is not."""
        script = self._chaos
        for pattern, of_image in self._images:
            if fnmatch.fnmatchcase(image, pattern):
                script = self._chaos.under(of_image)
        reference = Reference.parse(image)
        word = reference.repository.removeprefix(REPOSITORY)
        if word not in (reference.repository, MISSING):
            said = word if reference.tag in ("latest", "") else f"{word}={reference.tag}"
            script = script.under(Script.parse(said, where=f"image {image}"))
        for where, text in (
            (f"config.env.{ENV}", config.env.get(ENV, "")),
            (f"config.metadata.{METADATA}", config.metadata.get(METADATA, "")),
        ):
            script = script.under(Script.parse(text, where=where))
        return script

    def draw(self, script: Script) -> Conduct:
        return script.draw(random.Random(f"{self._seed}/{next(self._starts)}"))


class SimulatedComputer:
    """`lose` makes its host unreachable for some seconds."""

    runs_programs = False
    workshop = None

    def __init__(
        self, settings: HostSettings, *, fate: Fate, cpus: int, memory_mb: int, lose: Callable[[float], None]
    ) -> None:
        self._settings, self._fate = settings, fate
        self.capacity = Capacity(settings, cpus=cpus, memory_mb=memory_mb)
        self.journal = Journal(settings.data_dir / "journal.db", durable=False)
        self.images = SimulatedImages()
        self.links = SimulatedLinks()
        self.driver = MockDriver(self._conduct, lose_host=lose)
        self._scripts: dict[Path, Script] = {}
        """By the file of the console, which each program of a Machine has for itself."""
        self._by_address: dict[str, Script] = {}
        self._chance = random.Random(0)

    async def open(self, driver_of: DriverOf) -> Several:
        self._settings.run_dir.mkdir(parents=True, exist_ok=True)
        self._settings.data_dir.mkdir(parents=True, exist_ok=True)
        return Several(dict.fromkeys(wanted(self._settings), self.driver), driver_of=driver_of)

    async def close(self) -> None:
        self.driver.switch_off()

    def accept(self, config: Config) -> tuple[str, ...]:
        for image in {program.image or config.image for program in config.programs} or {config.image}:
            self._fate.script(config, image)
        return ()

    async def probe(self, check: CheckConfig, address: str) -> Finding:
        """As its Machine was told to be. Nobody is asked: the address may be somebody's in the world outside."""
        status = self._by_address.get(address, Script()).check_status(self._chance)
        if not status:
            return Finding(False, "connect: connection refused")
        return Finding(200 <= status < 300, "simulated" if status == 200 else f"status {status}: simulated")

    def compile(self, machine: Machine, surroundings: Surroundings) -> Sandbox:
        program, image, log = surroundings.program, surroundings.image, surroundings.log
        own = program.image if program is not None else ""
        script = self._fate.script(machine.config, own or machine.config.image)
        if machine.config.metadata.get("fly_process_group") in _JOBS:
            script = Script({"job": Word("job", None)}).under(script)
        self._scripts[log] = self._by_address[machine.ipv4] = script
        env = guest.environment(machine, image, "/root", secrets=surroundings.secrets, program=program)
        guest_mb, pids = machine.config.guest.memory_mb, surroundings.settings.pids_limit
        return Sandbox(
            id=machine.run_id,
            root=surroundings.root,
            argv=guest.command_line(machine, image, program),
            env=tuple(f"{name}={value}" for name, value in env.items()),
            cwd="/",
            uid=0,
            gid=0,
            gids=(),
            hostname=machine.config.hostname or machine.id,
            netns=surroundings.netns,
            binds=(),
            limits=Limits(cores=1.0, weight=100, memory_mb=guest_mb, pids=pids),
            log=log,
        )

    def _conduct(self, sandbox: Sandbox) -> Conduct:
        return self._fate.draw(self._scripts.get(sandbox.log, Script()))


@dataclass(frozen=True, slots=True)
class SimulatedRoots:
    """Roots that nobody looks into."""

    async def mount(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> Path:
        return _NOWHERE

    async def lay_out(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> LaidOut:
        return LaidOut(_NOWHERE, _NOWHERE, _NOWHERE)

    async def unmount(self, key: str, *, keep: bool = False) -> None: ...

    async def mark(self, key: str) -> str:
        return ""

    def known(self) -> set[str]:
        return set()


class SimulatedImages:
    """A registry that has every image but those it is told not to have."""

    def __init__(self) -> None:
        self.roots = SimulatedRoots()

    async def resolve(self, reference: str, *, organization: str = "") -> ResolvedImage:
        wanted = Reference.parse(reference)
        if wanted.tag == MISSING or wanted.repository == REPOSITORY + MISSING:
            raise InvalidArgument(
                f"image {wanted} is not there: MANIFEST_UNKNOWN: manifest unknown",
                why=f"on caddis dev no image has the tag {MISSING}",
                next="choose another tag",
                status="manifest_unknown",
            )
        digest = wanted.digest or f"sha256:{hashlib.sha256(wanted.name.encode()).hexdigest()}"
        config = ImageConfig(cmd=(wanted.repository.rpartition("/")[2],))
        return ResolvedImage(wanted.at(digest), digest, digest, config, ())

    async def fetch(self, image: ResolvedImage) -> Image:
        return Image(image, ())

    async def config_of(self, image: ResolvedImage) -> bytes:
        return json.dumps({"os": "linux", "config": {"Cmd": list(image.config.cmd)}}).encode()

    def referenced_by(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Nothing is ever deleted."""

    async def import_archive(self, path: Path, *, name: str, select: str = "") -> ResolvedImage:
        raise Unimplemented("a simulated host keeps no images", next="use any name: every image is there")

    async def pull(self, reference: str, *, credentials: Credentials | None = None) -> ResolvedImage:
        return await self.resolve(reference)

    def status(self, reference: str) -> tuple[LayerStatus, ...]:
        return ()

    def list(self) -> tuple[StoredImage, ...]:
        return ()

    async def remove(self, name: str) -> None:
        raise _absent(name)

    def show(self, name: str) -> tuple[ResolvedImage, tuple[LayerStatus, ...]]:
        raise _absent(name)

    async def collect(self, *, all_unused: bool = False) -> Collected:
        return Collected(0, 0, 0)

    async def verify(self, name: str = "") -> Verified:
        return Verified(0, (), (), ())


def _absent(name: str) -> NotFound:
    return NotFound(f"image {name} is not on this host", why="a simulated host keeps no images")


class SimulatedLinks:
    """Links to nowhere."""

    firewall = "none: nobody is plugged in"

    async def attach(self, attachment: Attachment) -> Path:
        return _NOWHERE

    async def reattach(self, attachment: Attachment) -> Path:
        return _NOWHERE

    async def detach(self, attachment: Attachment) -> None: ...

    async def readmit(self, attachment: Attachment) -> None: ...

    async def known(self) -> frozenset[str]:
        return frozenset()

    async def discard(self, id: str) -> None: ...

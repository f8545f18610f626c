"""Who may run commands in a guest: whoever has a certificate of its organisation's authority (OpenSSH, Ed25519).

The authority's key is made when the organisation's first microVM starts on this host, and never leaves it. The guest is
given its public half; the agent makes itself a certificate each time it enters. It holds for a day before and after: a
guest sets its own clock.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from caddisfly.host.drivers.microvm.config import INSIDE

_ALGORITHM = "ssh-ed25519"
USER = "root"
"""As whom the agent enters; commands become the Machine's user by themselves."""
_SSHD = f"""\
HostKey {INSIDE}/host_key
TrustedUserCAKeys {INSIDE}/authority
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers {USER}
AllowTcpForwarding no
AllowAgentForwarding no
X11Forwarding no
PrintMotd no
PrintLastLog no
StrictModes no
UseDNS no
UsePAM no
MaxSessions 64
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True, slots=True)
class Authorities:
    """One for each organisation, kept as files that only root reads."""

    directory: Path

    def files(self, organization: str) -> dict[str, bytes]:
        """What a guest's sshd needs. Its own key is new each time."""
        authority = self._authority(organization)
        return {
            "sshd_config": _SSHD.encode(),
            "host_key": asyncssh.generate_private_key(_ALGORITHM).export_private_key(),
            "authority": authority.export_public_key(),
        }

    def pass_for(self, organization: str) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
        """A key of the agent's own, and a certificate that lets it in."""
        key = asyncssh.generate_private_key(_ALGORITHM)
        # A guest's clock may be off by as long as it was suspended, until it is set.
        certificate = self._authority(organization).generate_user_certificate(
            key, "caddisfly", principals=[USER], valid_after="-1d", valid_before="+1d"
        )
        return key, certificate

    def word_of(self, organization: str, id: str) -> str:
        """What only this guest can say of itself, the same after a reboot, for what is resumed then."""
        return hmac.new(self._key_file(organization).read_bytes(), f"word of {id}".encode(), "sha256").hexdigest()

    def _authority(self, organization: str) -> asyncssh.SSHKey:
        return asyncssh.read_private_key(str(self._key_file(organization)))

    def _key_file(self, organization: str) -> Path:
        """Made when there is none."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / hashlib.sha256(organization.encode()).hexdigest()[:32]
        if not path.exists():
            key = asyncssh.generate_private_key(_ALGORITHM, comment="caddisfly")
            draft = path.with_suffix(f".{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_bytes(key.export_private_key())
            try:
                os.link(draft, path)  # whoever was first has made it
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path

"""Real certificates: those that deploy/certificates.sh makes, and others that it would not."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.relay.servers import HOST

SCRIPT = ROOT / "deploy" / "certificates.sh"


@dataclass(frozen=True)
class Machine:
    """What one machine has."""

    ca: Path
    cert: Path
    key: Path

    @property
    def client(self) -> dict[str, Path]:
        """Arguments of a client."""
        return {"ca": self.ca, "cert": self.cert, "key": self.key}

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of `relay`."""
        return tuple(word for name, file in self.client.items() for word in (f"--{name}", str(file)))

    @property
    def server(self) -> dict[str, Any]:
        """Settings of a node that shows it to those who ask; with `mutual`, it wants theirs."""
        return {"tls_cert": self.cert, "tls_key": self.key}

    @property
    def mutual(self) -> dict[str, Any]:
        return {**self.server, "tls_client_ca": self.ca}

    @property
    def upward(self) -> dict[str, Any]:
        """Settings of a node that shows it to its upstream."""
        return {f"upstream_{name}": file for name, file in self.client.items()}


class Authority:
    """One authority and its machines, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def machine(self, name: str, *others: str) -> Machine:
        """A machine with these names, made by the script. Nodes of the tests are reached as 127.0.0.1."""
        subprocess.run([SCRIPT, self.folder, ",".join([name, *others])], check=True, capture_output=True)
        return self._machine(name)

    def node(self, name: str) -> Machine:
        return self.machine(name, HOST, "localhost")

    def odd(self, name: str, *x509: str, subject: str = "/CN=odd", extensions: str = "") -> Machine:
        """A machine whose certificate the script would not make: with these options of `openssl x509`."""
        machine = self._machine(name)
        key = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        machine.key.write_bytes(key)
        request = openssl("req", "-new", "-key", str(machine.key), "-subj", subject)
        (self.folder / "odd.cnf").write_text(extensions)
        signing = ("-CA", str(machine.ca), "-CAkey", str(self.folder / "ca-key.pem"), "-set_serial", "77")
        given = ("-extfile", str(self.folder / "odd.cnf"), *(x509 or ("-days", "9")))
        machine.cert.write_bytes(openssl("x509", "-req", *signing, *given, stdin=request))
        return machine

    def _machine(self, name: str) -> Machine:
        return Machine(self.folder / "ca.pem", self.folder / f"{name}.pem", self.folder / f"{name}-key.pem")


def openssl(*words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=stdin, check=True, capture_output=True).stdout

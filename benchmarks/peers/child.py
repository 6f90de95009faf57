"""The parent's side of a child: start it, ask it, read its processor time, end it."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from family.errors import FamilialError

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_S = 20.0


class PeerError(FamilialError):
    """An engine could not be started, or failed at what it was asked; the text names it and says what it said."""


class Child:
    """A process that speaks `benchmarks.peers.protocol`, for use in a `with` statement.

    `module` is one of `benchmarks.peers`, `python` the interpreter that has its engine.
    """

    def __init__(self, name: str, module: str, python: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - not a pipe: nobody reads it while the child runs
        try:
            self._process = subprocess.Popen(
                [str(python), "-m", f"benchmarks.peers.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            )
        except OSError as error:
            self._log.close()
            raise PeerError(f"{name}: cannot start {python} ({error.strerror or error})") from error

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its reply. Raises `PeerError` for a failure, or a child that ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            raise PeerError(f"{self.name}: its process ended with {self._process.returncode}: {self._said()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerError(f"{self.name}: {do} failed: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the child; it leaves by itself when its input ends."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for stream in (self._process.stdin, self._process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                continue
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _said(self) -> str:
        """The last line on its stderr."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def processor_s(pid: int) -> float:
    """Seconds of processor time that the threads of a process have used, to the nanosecond.

    From Linux's scheduler: the times in `/proc/PID/stat` advance in steps of 10 ms.
    """
    spent = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        spent += int(path.read_text().split()[0])
    return spent / 1e9

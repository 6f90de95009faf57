"""The files of deploy/ as those read them who run them: Docker, Compose, systemd, and a person with a terminal."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from typing import Any

import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
TIERS = ("device", "edge", "cloud")
UNIT = DEPLOY / "systemd" / "relay-node@.service"


class Image:
    """What the last stage of the Dockerfile makes."""

    def __init__(self) -> None:
        text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
        joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
        self.instructions = [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]
        last = max(i for i, (name, _) in enumerate(self.instructions) if name == "FROM")
        self.final = dict(self.instructions[last:])
        self.entrypoint: list[str] = json.loads(self.final["ENTRYPOINT"])
        self.healthcheck: list[str] = json.loads(self.final["HEALTHCHECK"].partition("CMD ")[2])
        self.environment = dict(pair.split("=", 1) for pair in shlex.split(self.final["ENV"]))

    def copied(self) -> list[str]:
        """What it takes from the repository."""
        copies = [shlex.split(rest) for name, rest in self.instructions if name == "COPY" and "--from" not in rest]
        return [source for *sources, _ in copies for source in sources]


def services(file: str = "compose.yaml", **variables: str) -> dict[str, dict[str, Any]]:
    """The services of a compose file, with these variables filled in."""

    def fill(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(":-")
        return variables.get(name.partition(":?")[0], default)

    text = re.sub(r"\$\{([^}]+)\}", fill, (DEPLOY / file).read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def unit(tier: str) -> configparser.ConfigParser:
    """The unit `relay-node@TIER`."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8").replace("%i", tier))
    return parser


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def example() -> dict[str, str]:
    """The variables that the README puts into `.env`."""
    (block,) = blocks("ini")
    return dict(line.split("=", 1) for line in block.splitlines())


def compose() -> list[str] | None:
    """The command that is Compose on this machine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        version = [*command, "version"]
        if shutil.which(command[0]) and not subprocess.run(version, capture_output=True, check=False).returncode:
            return command
    return None

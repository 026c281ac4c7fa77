"""The real compose file under docker-compose, as a user runs it."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from demo.dataset import EXCLUDED_NODE
from demo.servers.waiting import wait_until
from tests.containers.engine import ROOT, Engine, without_digests

IMAGES = 40
PROJECT = "weavloader"
STAND_INS = ROOT / "tests" / "containers" / "compose.yml"
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Compose:
    """docker-compose and the project it brings up.

    Attributes:
        host: Where Docker's API is spoken.
        began: Nanoseconds since 1970 when the replay began.
    """

    engine: Engine
    host: str
    began: int = field(default_factory=time.time_ns)

    def __call__(self, *words: str, check: bool = True) -> str:
        """What ``docker-compose WORDS`` writes to its standard output."""
        return self.engine.run([*self._docker(), *words], check=check)

    def shell(self, line: str) -> str:
        """What a line of the documentation writes, with docker-compose as this project's."""
        docker = shlex.join(self._docker())
        if " -T " not in line:  # without it they want a terminal
            line = re.sub(r"docker-compose (exec|run)", r"docker-compose \1 -T", line)
        return self.engine.run(["sh", "-c", line.replace("docker-compose", docker)])

    def _docker(self) -> list[str]:
        read = self.engine.folder / "docker-compose.yml"
        read.write_text(without_digests((ROOT / "docker-compose.yml").read_text()))
        files = ["--project-directory", str(ROOT), "-f", str(read), "-f", str(STAND_INS)]
        env_file = self.engine.folder / "compose.env"
        env_file.write_text("".join(f"{n}={value}\n" for n, value in self._variables().items()))
        docker = ["env", f"DOCKER_HOST={self.host}", "COMPOSE_HTTP_TIMEOUT=900", "docker-compose"]
        options = ["-p", PROJECT, "--profile", "preview", "--env-file", str(env_file), *files]
        return [*docker, *options]

    def _variables(self) -> dict[str, str]:
        return {
            "SAGE_USER": "sage",
            "SAGE_PASS": "replayed",
            "REDIS_PASSWORD": "tested",
            "UNALLOWED_NODES": EXCLUDED_NODE.vsn,
            "STORE": "weaviate" if shutil.which("weaviate") else "embedded",
            "IMAGES": str(IMAGES),
            "BEGAN": str(self.began),
        }

    def inside(self, *words: str) -> list[str]:
        """The lines that ``inside.py WORDS`` prints."""
        return self("exec", "-T", "replay", "python", "inside.py", *words).splitlines()

    def redis(self, *words: str) -> str:
        """What ``redis-cli WORDS`` answers, as the documentation has users ask."""
        return self("exec", "-T", "redis", "redis-cli", *words).strip()

    def ask_for_reconciliation(self) -> None:
        """Begin what beat begins every half hour, which finds what was uploaded late."""
        ask = "from tasks import health_check; health_check.delay()"
        self("exec", "-T", "weavloader", "python", "-c", ask)

    def wait_for_account(self) -> None:
        """Wait until every image of the replay is as it should be."""
        wrong: list[str] = []

        def settled() -> bool:
            wrong[:] = self.inside("account", str(self.began), str(IMAGES))
            if wrong:
                self.ask_for_reconciliation()
            return not wrong

        try:
            wait_until(settled, "an outcome of every image", _PATIENCE)
        except AssertionError:
            raise AssertionError("\n".join(wrong)) from None

    def burst(self, name: str, amount: int) -> list[str]:
        """Put ``amount`` images on the queue; their links."""
        return self.inside("burst", str(self.began), name, str(amount))

    def wait_until_stored(self, links: Sequence[str]) -> None:
        """Wait until every one of these images is in the store."""
        wait_until(
            lambda: self.inside("stored", *links) == [str(len(links))], "all are stored", _PATIENCE
        )

    def containers(self, service: str) -> list[str]:
        """Names of the running containers of a service."""
        names = self.engine.podman("ps", "--format", "{{.Names}}").split()
        return sorted(name for name in names if name.startswith(f"{PROJECT}_{service}_"))

    def is_healthy(self, container: str) -> bool:
        """Whether its health check passes."""
        field = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
        return self.engine.podman("inspect", "--format", field, container).strip() == "healthy"

"""Building and running containers with buildah and podman, apart from the machine's own."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = (ROOT / ".cache").resolve() / "containers"
BASE = "docker.io/library/python:3.11.16-slim-bookworm"
PACKAGES = {
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "catatonit": "catatonit",
    "debootstrap": "debootstrap",
    "docker-compose": "docker-compose",
    "iptables": "iptables",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
}
_STEP_SECONDS = 900
_SUITE = "bookworm"
_INCLUDE = "python3,python3-venv,python3-pip,ca-certificates"
# Whatever leads this machine's apt and pip to their mirrors leads those of the base there too.
_HANDED_ON = ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
# runc, since crun wants cgroups of one version; no systemd, hence cgroupfs and files.
_CONTAINERS = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
log_driver = "k8s-file"
init_path = "/usr/libexec/podman/catatonit"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


def without_digests(text: str) -> str:
    """A text that names images, without digests: no stand-in has that of what it stands for."""
    return re.sub(r"@sha256:[0-9a-f]{64}", "", text)


def missing() -> str:
    """What this machine lacks, and how to get it; empty when nothing."""
    if os.geteuid() != 0:
        return "containers are run as root here: sudo make test-containers"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    wanted = [package for name, package in PACKAGES.items() if not shutil.which(name, path=path)]
    return f"apt-get install {' '.join(wanted)}" if wanted else ""


@dataclass(frozen=True, slots=True)
class Engine:
    """podman and buildah with storage, networks and settings of their own in ``folder``."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """The environment their commands run in."""
        return {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(self.folder),
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
        }

    def podman(self, *words: str, check: bool = True) -> str:
        """What a podman command writes to its standard output."""
        return self.run(["podman", *words], check=check)

    def log(self, container: str) -> str:
        """All that a container said, on both of its outputs."""
        return self.run(["sh", "-c", 'exec podman logs "$0" 2>&1', container])

    def run(self, command: Sequence[str], check: bool = True) -> str:
        """What ``command`` writes to its standard output.

        Raises:
            AssertionError: It failed, with the end of what it said.
        """
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=_STEP_SECONDS,
            check=False,
        )
        failure = f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert done.returncode == 0 or not check, failure
        return done.stdout

    def build(
        self, tag: str, dockerfile: Path, context: Path = ROOT, *, target: str = "", arg: str = ""
    ) -> None:
        """Build an image; layers that are there already are not built again.

        Args:
            arg: ``NAME=value`` of a build argument.
        """
        read = self.folder / f"{dockerfile.name}.read"
        read.write_text(without_digests(dockerfile.read_text()))
        self.run(
            [
                "buildah",
                "bud",
                "--pull-never",
                "--format",
                "docker",
                "--layers",
                "--tag",
                tag,
                *([f"--target={target}"] if target else []),
                *([f"--build-arg={arg}"] if arg else []),
                "--file",
                str(read),
                str(context),
            ]
        )

    def build_base(self) -> None:
        """Stand in for the Python image that the Dockerfile begins with: Debian's Python 3.11."""
        if self.podman("images", "-q", BASE):
            return
        root = self.folder / "base"
        shutil.rmtree(root, ignore_errors=True)
        self.run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--include={_INCLUDE}",
                _SUITE,
                str(root),
                _mirror(),
            ]
        )
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for name in _HANDED_ON:
            if Path("/", name).exists():
                shutil.copy(Path("/", name), root / name)
        container = self.run(["buildah", "from", "scratch"]).strip()
        self.run(["buildah", "add", "-q", container, str(root), "/"])
        self.run(
            [
                "buildah",
                "config",
                "--env",
                "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                container,
            ]
        )
        self.run(["buildah", "commit", "-q", "--rm", "--format", "docker", container, BASE])
        shutil.rmtree(root)

    def names(self, kind: str) -> set[str]:
        """Names of all there are of ``container``, ``volume`` or ``network``."""
        everything = ["--all"] if kind == "container" else []
        field = "{{.Names}}" if kind == "container" else "{{.Name}}"
        return set(self.podman(kind, "ls", *everything, "--format", field).split())


@contextmanager
def only_engine(folder: Path = FOLDER) -> Iterator[Engine]:
    """The engine, for one process at a time; no container is left running at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
    (folder / "containers.conf").write_text(_CONTAINERS.format(folder=folder))
    engine = Engine(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_everything(engine)
        try:
            yield engine
        finally:
            _remove_everything(engine)


def _remove_everything(engine: Engine) -> None:
    """Of an earlier run that was killed, too; images stay."""
    engine.podman("pod", "rm", "--all", "--force", "--time", "0")
    engine.podman("rm", "--all", "--force", "--time", "0")
    engine.podman("volume", "rm", "--all", "--force")
    engine.podman("network", "prune", "--force")


def _mirror() -> str:
    """Where this machine's apt gets Debian from."""
    lists = [*Path("/etc/apt").glob("sources.list.d/*"), Path("/etc/apt/sources.list")]
    for file in filter(Path.is_file, lists):
        found = re.search(r"^(?:URIs:|deb) +(http\S+/debian/?)(?:\s|$)", file.read_text(), re.M)
        if found:
            return found[1]
    raise AssertionError("no Debian mirror in /etc/apt")

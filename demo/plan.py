"""What one demo will run: where everything listens, and the settings of every role."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from demo.dataset import World
from demo.nodes import EXCLUDED_NODE
from demo.servers import triton
from demo.servers.ports import HOST, free_ports

USER = "demo"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts of one demo listen, all on loopback."""

    redis: int
    triton_grpc: int
    triton_http: int
    triton_metrics: int
    sage: int
    other_host: int
    metrics: int
    flower: int
    web: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What one demo will run.

    Attributes:
        folder: Its own, for data, logs and sockets.
        world: What is published.
        sage_password: With :data:`USER`, what the replay's storage asks for.
        flower_password: With :data:`USER`, what Flower asks for.
    """

    folder: Path
    ports: Ports
    world: World
    sage_password: str
    flower_password: str

    @classmethod
    def draw_up(
        cls, folder: Path, images: int, publish_seconds: float, images_dir: Path | None
    ) -> Plan:
        """A plan on free ports, with new passwords."""
        ports = Ports(*free_ports(9))
        world = World(
            storage=f"{HOST}:{ports.sage}",
            other_host=f"{HOST}:{ports.other_host}",
            began=time.time_ns(),
            images=images,
            publish_seconds=publish_seconds,
            images_dir=images_dir,
        )
        return cls(folder, ports, world, secrets.token_urlsafe(12), secrets.token_urlsafe(9))

    def environment(self, own_store: bool) -> dict[str, str]:
        """The settings of every role.

        Args:
            own_store: Keep objects in an embedded store in the folder, not in the Weaviate
                that the environment names.
        """
        redis = f"redis://{HOST}:{self.ports.redis}/0"
        store = {"VECTOR_STORE": "weaviate"}
        if own_store:
            store = {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(self.folder / "store")}
        return {
            **store,
            **self._sage(),
            **self._pages(),
            "CELERY_BROKER_URL": redis,
            "CELERY_RESULT_BACKEND": redis,
            "TRITON_HOST": HOST,
            "TRITON_PORT": str(self.ports.triton_grpc),
            "POLL_MIN_SECONDS": "1",
            "POLL_MAX_SECONDS": "3",
            "RETRY_DELAY": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
        }

    def _sage(self) -> dict[str, str]:
        return {
            "SAGE_DATA_API": f"http://{self.world.storage}/api/v1/query",
            "SAGE_STORAGE_HOSTS": self.world.storage,
            "MANIFEST_API": f"http://{self.world.storage}/manifests/",
            "SAGE_USER": USER,
            "SAGE_PASS": self.sage_password,
            "SAGE_FILTER": '{"name": "upload", "task": "imagesampler-.*"}',
            "UNALLOWED_NODES": EXCLUDED_NODE.vsn,
        }

    def _pages(self) -> dict[str, str]:
        return {
            "METRICS_ADDRESS": HOST,
            "METRICS_PORT": str(self.ports.metrics),
            "FLOWER_ADDRESS": HOST,
            "FLOWER_PORT": str(self.ports.flower),
            "FLOWER_URL": f"http://{HOST}:{self.ports.flower}",
            "FLOWER_BASIC_AUTH": f"{USER}:{self.flower_password}",
            "WEB_ADDRESS": HOST,
            "WEB_PORT": str(self.ports.web),
        }

    def triton_ports(self) -> triton.Ports:
        """Where Triton listens."""
        ports = self.ports
        return triton.Ports(ports.triton_grpc, ports.triton_http, ports.triton_metrics)

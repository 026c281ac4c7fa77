"""Every image that the compose file names, built here."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from demo.servers import triton_install
from tests.containers.engine import ROOT, Engine, without_digests
from tests.support.deployment_files import compose

OURS = "weavloader:0.1.0"
PREVIEW = "weavloader-triton-preview:0.1.0"
TRITON = "nvcr.io/nvidia/tritonserver:26.08-py3"
STAND_INS = Path(__file__).parent / "stand_ins"
DOCKERFILE = ROOT / "Dockerfile"


def _of_compose(service: str) -> str:
    return without_digests(compose()["services"][service]["image"])


REDIS = f"docker.io/library/{_of_compose('redis')}"
PROMETHEUS = f"docker.io/{_of_compose('prometheus')}"
WEAVIATE = _of_compose("weaviate")


def build_ours(engine: Engine) -> None:
    """The project's image, from its real Dockerfile."""
    engine.build_base()
    engine.build(OURS, DOCKERFILE, target="weavloader")


def build_redis(engine: Engine) -> None:
    """A stand-in for Redis's image."""
    engine.build(REDIS, STAND_INS / "redis.Dockerfile", STAND_INS)


def build_all(engine: Engine) -> None:
    """The project's images and stand-ins for those of others."""
    build_ours(engine)
    build_redis(engine)
    engine.build(PROMETHEUS, STAND_INS / "prometheus.Dockerfile", STAND_INS)
    engine.build(
        TRITON, STAND_INS / "triton.Dockerfile", STAND_INS, arg=f"SERVER={triton_install.SERVER}"
    )
    engine.build(PREVIEW, DOCKERFILE, target="triton-preview")
    _build_weaviate(engine)


def _build_weaviate(engine: Engine) -> None:
    binary = shutil.which("weaviate")
    if binary is None:
        engine.build(WEAVIATE, STAND_INS / "no-weaviate.Dockerfile", STAND_INS)
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(binary, Path(folder) / "weaviate")
        engine.build(WEAVIATE, STAND_INS / "weaviate.Dockerfile", Path(folder))

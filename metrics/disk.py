"""Room left where Weavloader writes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from prometheus_client import Metric

from metrics.families import gauges
from weavloader.settings import Settings


def volumes(settings: Settings) -> dict[str, str]:
    """Folders that this system fills, by a short name; Redis and Weaviate watch their own."""
    folders = {"metrics": settings.prometheus_multiproc_dir}
    if settings.vector_store == "embedded":
        folders["store"] = settings.embedded_store_path
    return folders


def disk_families(folders: Mapping[str, str]) -> list[Metric]:
    """Free and whole size of the file system under each folder; none for one that is away."""
    free, size = {}, {}
    for name, folder in folders.items():
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue  # component_health says so
        free[name], size[name] = float(usage.free), float(usage.total)
    return [
        gauges("disk_free_bytes", "Bytes free where it is written", "volume", free),
        gauges("disk_size_bytes", "Bytes in all where it is written", "volume", size),
    ]

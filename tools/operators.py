"""Write alerts and dashboard into ``kubernetes-operators.yaml``: ``python -m tools.operators``.

Kubernetes takes them as resources; what they say stands in ``metrics/artifacts`` alone. A test
compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from demo.servers.prometheus import ARTIFACTS
from demo.stack import ROOT

PATH = ROOT / "kubernetes-operators.yaml"
MARK = "# From here on written by `python -m tools.operators` out of metrics/artifacts.\n"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def text() -> str:
    """The whole file: what is written by hand, and after the mark what is not."""
    by_hand = PATH.read_text().partition(MARK)[0]
    written = "---\n".join(
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=10_000) for each in _resources()
    )
    return by_hand + MARK + written


def _resources() -> Iterator[dict[str, Any]]:
    rules = yaml.safe_load((ARTIFACTS / "alerts.yml").read_text())
    yield {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "weavloader", "namespace": "weavloader"},
        "spec": rules,
    }
    script = (ARTIFACTS / "alertmanager.sh").read_text()
    yield _config_map("alertmanager", {}, {"alertmanager.sh": script})
    dashboard = json.loads((ARTIFACTS / "grafana-dashboard.json").read_text())
    # A line a panel, within the quarter of a megabyte that `kubectl apply` takes.
    panels = ",\n".join(json.dumps(panel, separators=(",", ":")) for panel in dashboard["panels"])
    rest = json.dumps({**dashboard, "panels": []}, separators=(",", ":"))
    body = rest.replace('"panels":[]', f'"panels":[\n{panels}\n]') + "\n"
    yield _config_map("weavloader-dashboard", {"grafana_dashboard": "1"}, {"weavloader.json": body})


def _config_map(name: str, labels: dict[str, str], data: dict[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "weavloader"}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


if __name__ == "__main__":
    PATH.write_text(text())

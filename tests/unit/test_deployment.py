"""Image, compose file and supervisord.conf agree with settings, commands and each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from commands.roles import ROLES
from job_system.celery_config import TIME_LIMIT
from tests.support.deployment_files import (
    DEFAULTS,
    DOCKERFILE,
    HYPERPARAMETERS,
    KNOWN,
    NOT_SETTINGS,
    OF_ALERTMANAGER,
    ROOT,
    SECRETS,
    compose,
    documents,
    kubernetes,
    our_services,
    pod_specs,
    served,
)
from tests.support.missing_parts import skip_without
from weavloader.settings import PREVIEW_HOST

NOT_IN_THE_IMAGE = {
    "benchmarks",
    "demo",
    "tests",
    "inference/preview",
    "inference/serving",
    "tools",
}

PREVIEW_PROFILE = "--profile preview"


def test_every_variable_of_the_example_is_a_setting() -> None:
    names = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.M))
    assert names
    assert names - NOT_SETTINGS <= KNOWN


def test_the_example_holds_no_secret() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(line.endswith("=") for line in lines if line.split("=")[0] in SECRETS)


def test_every_variable_of_the_image_is_a_setting_or_pythons_own() -> None:
    block = re.search(r"^ENV (.*?)(?<!\\)\n", DOCKERFILE, re.M | re.S)
    assert block is not None
    names = set(re.findall(r"(\w+)=", block[1]))
    assert names - NOT_SETTINGS <= KNOWN


def test_every_variable_that_supervisord_reads_is_set_by_the_image() -> None:
    read = re.findall(r"%\(ENV_(\w+)\)s", (ROOT / "supervisord.conf").read_text())
    assert read
    for name in read:
        assert f"{name}=" in DOCKERFILE


def test_every_variable_of_the_compose_services_is_a_setting() -> None:
    for service in our_services().values():
        assert set(service["environment"]) - NOT_SETTINGS <= KNOWN | HYPERPARAMETERS


def test_every_setting_of_use_beyond_its_container_can_be_put_in_the_environment() -> None:
    fixed = re.compile("CELERY_.*|REDIS_.*|(METRICS|WEB|FLOWER)_(ADDRESS|PORT|URL)|.*_(DIR|PATH)")
    given = compose()["services"]["weavloader"]["environment"]
    asked = {name for name, value in given.items() if value is None or value.startswith("${")}
    assert {name for name in KNOWN | HYPERPARAMETERS if not fixed.fullmatch(name)} == asked


def test_every_variable_that_compose_asks_for_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.M))


def test_every_program_of_the_all_in_one_container_is_a_role_or_redis() -> None:
    text = (ROOT / "supervisord.conf").read_text()
    programs = dict(re.findall(r"^\[program:(\w+)\]\n(?:.*\n)*?command=(.*)$", text, re.M))
    assert programs.pop("redis").startswith("redis-server ")
    assert programs == {role: f"python main.py {role}" for role in ROLES}


def test_every_command_of_compose_exists() -> None:
    for name, service in our_services().items():
        if name != "weavloader":  # which has the image's own command
            found = re.findall(r"python main\.py (\w+)", service["command"][-1])
            assert found == ["metrics", name.removesuffix("-gpu")]
            assert set(found) <= set(ROLES)


def test_the_image_holds_every_module_that_its_roles_import() -> None:
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
    copied = " ".join(copies).split()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for module in tracked("*.py"):
        folders = {str(parent) for parent in module.parents}
        if not folders & NOT_IN_THE_IMAGE and "_repository" not in str(module):
            assert any(module.match(name) or name in folders for name in copied), module
    for name in copied:
        reaches = {f"!{name.split('/')[0]}", f"!{name}"} & set(ignored)
        assert reaches, f"{name} never reaches the build"


def tracked(pattern: str) -> list[Path]:
    """Files of this project, by a pattern of git's."""
    command = ["git", "ls-files", pattern]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def test_the_image_holds_neither_tests_nor_the_demo() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not {"!tests", "!demo", "!benchmarks", "!.env", "!.git"} & set(ignored)


def test_the_image_runs_as_a_user_without_rights_and_asks_its_own_health() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\d+):\d+$", final, re.M)
    assert user is not None and int(user[1]) >= 1000
    asked = re.search(r"http://localhost:(\d+)(/[\w/]*)", final.partition("HEALTHCHECK")[2])
    assert asked is not None
    assert int(asked[1]) == DEFAULTS["metrics_port"]
    assert asked[2] in served()[int(asked[1])]
    assert re.findall(r"^EXPOSE (\d+)$", final, re.M) == [asked[1]]


def test_no_compiler_is_in_the_image() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert not re.search(r"build-essential|\bgcc\b|\bg\+\+|python3-dev", final)


# What no two public repositories that name a digest agree on.
BY_TAG_ALONE = {
    "cr.weaviate.io/semitechnologies/weaviate",
    "nvcr.io/nvidia/tritonserver",
    "prom/alertmanager",
}


def images_of_others() -> dict[str, set[str]]:
    """Tags and digests of images that are pulled, by the image's name."""
    files = ("docker-compose.yml", "kubernetes-complete.yaml", "kubernetes-operators.yaml")
    found = {i for name in files for i in re.findall(r"image: (\S+)", (ROOT / name).read_text())}
    for file in (ROOT / "Dockerfile", ROOT / "inference/Dockerfile.triton"):
        found |= set(re.findall(r"^FROM (\S+)", file.read_text(), re.M))
    named: dict[str, set[str]] = {}
    for image in found:
        if not image.startswith("weavloader"):
            name, _, version = image.partition(":")
            named.setdefault(name, set()).add(version)
    return named


def test_every_image_is_pinned_and_everywhere_the_same() -> None:
    images = images_of_others()
    assert len(images) > 8
    for name, versions in images.items():
        (version,) = versions
        tag, _, digest = version.partition("@sha256:")
        assert re.search(r"\d", tag), name
        assert (digest == "") is (name in BY_TAG_ALONE), name
        assert re.fullmatch(r"(?:[0-9a-f]{64})?", digest), name


def test_the_documentation_names_the_images_without_a_digest() -> None:
    page = (ROOT / "docs/security.md").read_text().partition("## Images by digest")[2]
    named = {name for name in images_of_others() if f"`{name}:" in page}
    assert named == BY_TAG_ALONE


def test_compose_publishes_the_ports_of_the_settings_on_loopback_only() -> None:
    published = compose()["services"]["weavloader"]["ports"]
    ports = [DEFAULTS[f"{name}_port"] for name in ("metrics", "web", "flower")]
    assert published == [f"127.0.0.1:{port}:{port}" for port in ports]
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_lets_the_longest_task_end() -> None:
    for service in our_services().values():
        assert int(service["stop_grace_period"].removesuffix("m")) * 60 > TIME_LIMIT


def test_supervisord_lets_the_longest_task_end() -> None:
    text = (ROOT / "supervisord.conf").read_text()
    for role in ("processor", "moderator", "cleaner"):
        section = text.partition(f"[program:{role}]")[2].partition("[program:")[0]
        wait = re.search(r"stopwaitsecs=(\d+)", section)
        assert wait is not None and int(wait[1]) > TIME_LIMIT


def test_no_secret_stands_in_clear() -> None:
    for secret in ("weavloader", "triton"):
        for value in kubernetes("Secret", secret)["stringData"].values():
            assert set(value.split(":")) == {"REPLACE_ME"}
    assert not SECRETS & set(kubernetes("ConfigMap")["data"])
    for _, spec in pod_specs():
        for variable in (v for c in spec["containers"] for v in c.get("env", [])):
            if variable["name"] in SECRETS:
                assert "secretKeyRef" in variable["valueFrom"]
    for service in compose()["services"].values():
        for name in SECRETS & set(service.get("environment", {})):
            value = service["environment"][name]
            assert value is None or value.startswith("${")


def test_every_compose_service_restarts_and_rotates_its_log() -> None:
    for name, service in compose()["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"]["max-size"], name
        assert service["mem_limit"], name


def test_every_claimed_volume_and_configuration_exists() -> None:
    volumes = compose()["volumes"]
    for service in compose()["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in volumes


def prometheus_text() -> str:
    return (ROOT / "metrics/artifacts/prometheus.yml").read_text()


def test_the_alertmanager_of_compose_takes_every_variable_that_its_script_reads() -> None:
    given = set(compose()["services"]["alertmanager"]["environment"])
    script = (ROOT / "metrics/artifacts/alertmanager.sh").read_text()
    assert given == set(re.findall(r"\$\{?(ALERT_\w+)", script)) == OF_ALERTMANAGER


def test_prometheus_scrapes_services_of_compose() -> None:
    jobs = documents("metrics/artifacts/prometheus.yml")[0]["scrape_configs"]
    (discovered,) = jobs[0]["dns_sd_configs"]
    assert set(discovered["names"]) == set(our_services()) - {"weavloader"}
    assert discovered["port"] == DEFAULTS["metrics_port"]
    for job in jobs:
        for target in job.get("static_configs", [{"targets": []}])[0]["targets"]:
            assert target.split(":")[0] in compose()["services"]
    for other in re.findall(r"names: \[(.*)\]", prometheus_text()):
        assert set(other.split(", ")) <= set(compose()["services"])


def test_compose_serves_previews_only_where_they_are_asked_for() -> None:
    services = compose()["services"]
    (previews,) = (
        name
        for name, service in services.items()
        if (service.get("build") or {}).get("target") == "triton-preview"
    )
    assert services[previews]["profiles"] == ["preview"]
    assert previews == PREVIEW_HOST, "or PREVIEW_MODELS would not be true for it"
    for name in our_services():
        assert services[name]["environment"]["TRITON_HOST"] == f"${{TRITON_HOST:-{PREVIEW_HOST}}}"
        assert previews not in services[name]["depends_on"]


def test_the_readme_installs_the_two_by_commands_of_their_own_and_ends_with_check() -> None:
    section = (ROOT / "README.md").read_text().partition("## Run it for real")[2]
    real, previews = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[:2]
    up = [line for line in (real + previews).splitlines() if " up -d" in line]
    assert [PREVIEW_PROFILE in line for line in up] == [False, True]
    for commands in (real, previews):
        assert commands.splitlines()[-1].endswith("python main.py check")


PAIRS = [("redis", "redis-exporter"), ("grafana", "prometheus"), ("alertmanager", "prometheus")]


def test_services_share_a_network_only_where_one_asks_the_other() -> None:
    services = compose()["services"]
    shared = {
        frozenset((name, other))
        for name in services
        for other in services
        if name < other and set(services[name]["networks"]) & set(services[other]["networks"])
    }
    ours = set(our_services())
    triton = {"triton-preview", "triton-gpu"}
    asked = {
        frozenset((own, name)) for own in ours for name in {"redis", "weaviate", "ollama"} | triton
    }
    asked |= {frozenset((own, other)) for own in ours for other in ours - {own} | {"jaeger"}}
    scraped = ours | triton | {"weaviate", "redis-exporter"}
    asked |= {frozenset(("prometheus", name)) for name in scraped}
    asked |= {frozenset(pair) for pair in PAIRS}
    # They meet where Prometheus and the workers do.
    asked |= {frozenset((own, "redis-exporter")) for own in ours} | {frozenset(triton)}
    assert shared == asked


def test_who_needs_nothing_from_outside_has_no_way_out() -> None:
    networks = compose()["networks"]
    outside = {name for name, options in networks.items() if not (options or {}).get("internal")}
    for name in ("redis", "weaviate", "triton-preview", "redis-exporter"):
        assert not outside & set(compose()["services"][name]["networks"]), name
    for name, service in compose()["services"].items():
        assert not service.get("ports") or outside & set(service["networks"]), name


def test_every_container_of_compose_has_no_capabilities_and_a_read_only_root() -> None:
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_services_of_compose_get_only_the_secrets_that_they_need() -> None:
    services = compose()["services"]
    holders = {
        secret: {name for name, each in services.items() if secret in each.get("environment", {})}
        for secret in ("SAGE_PASS", "OPENAI_API_KEY", "FLOWER_BASIC_AUTH", "HF_TOKEN")
    }
    assert holders == {
        "SAGE_PASS": {"weavloader", "processor", "processor-gpu"},
        "OPENAI_API_KEY": {"weavloader", "processor", "processor-gpu"},
        "FLOWER_BASIC_AUTH": {"weavloader"},
        "HF_TOKEN": {"triton-gpu"},
    }


def test_no_password_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{REDIS_PASSWORD(:[-?])?", text)) <= {":?", ""}
    assert not re.findall(r"\$\{\w*(?:PASS|PASSWORD|KEY|TOKEN|AUTH):-[^}]", text)


@pytest.mark.parametrize("missing", [None, "SAGE_USER", "SAGE_PASS", "REDIS_PASSWORD"])
def test_docker_compose_accepts_the_file_only_with_credentials(
    missing: str | None, tmp_path: Path
) -> None:
    client = shutil.which("docker-compose")
    if client is None:
        skip_without("docker-compose is missing: apt-get install docker-compose")
    (tmp_path / "empty").write_text("")  # instead of a developer's own .env
    credentials = {"SAGE_USER": "a", "SAGE_PASS": "b", "REDIS_PASSWORD": "c"}
    credentials.pop(missing or "", None)
    done = subprocess.run(
        [
            client,
            "--env-file",
            str(tmp_path / "empty"),
            "-f",
            "docker-compose.yml",
            "--profile",
            "scale",
            "--profile",
            "gpu",
            "--profile",
            "traces",
            "--profile",
            "ollama",
            "config",
            "--quiet",
        ],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **credentials},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode == 0) is (missing is None), done.stderr


def test_weaviate_keeps_backups_on_a_volume_of_their_own() -> None:
    service = compose()["services"]["weaviate"]
    (container,) = dict(pod_specs())["weaviate"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    for environment in (service["environment"], given):
        assert environment["ENABLE_MODULES"] == "backup-filesystem"
    mounts = dict(mount.split(":") for mount in service["volumes"])
    assert mounts["weaviate-backups"] == service["environment"]["BACKUP_FILESYSTEM_PATH"]
    claimed = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert claimed["backups"] == given["BACKUP_FILESYSTEM_PATH"]
    volumes = {each["name"]: each for each in dict(pod_specs())["weaviate"]["volumes"]}
    claim = volumes["backups"]["persistentVolumeClaim"]["claimName"]
    assert kubernetes("PersistentVolumeClaim", claim)

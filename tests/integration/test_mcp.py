"""``main.py mcp``: an assistant's tools, asked by the SDK's own client over standard input."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, ImageContent, TextContent, Tool
from PIL import Image

from demo.servers.ports import free_ports
from tests.support.pages import SNOW, STREET, an_image, keep
from weavloader.settings import get_settings, load_settings
from web.assistant import MAX_CAPTION, MAX_PICTURE_BYTES, Tools
from web.query import ARGUMENTS
from web.results import SearchPageResult

ROOT = Path(__file__).parents[2]
STORED = [
    an_image("snow", "snow on a ridge " + "and on a roof " * 100, SNOW),
    an_image("street", "cars in a street", STREET, minutes_ago=3, vsn="W07A"),
]
TOKEN = "a-secret-of-ours"


@dataclass
class Asked:
    """What a session with the real command gave."""

    tools: dict[str, Tool]
    instructions: str
    answers: dict[str, CallToolResult]


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "by words": ("search", {"text": "snow"}),
    "newest": ("search", {"limit": 1}),
    "similar": ("search", {"like": [STORED[0].id], "alpha": None}),
    "of a node": ("search", {"vsn": "w07a", "since": "1d"}),
    "a picture": ("image", {"id": STORED[1].id}),
    "by a prefix": ("image", {"id": STORED[0].id[:8]}),
    "state": ("status", {}),
    "wrong time": ("search", {"since": "tomorrowish"}),
    "wrong type": ("search", {"limit": "many"}),
    "too many": ("search", {"limit": 5000}),
    "unknown argument": ("search", {"colour": "red"}),
    "no such image": ("image", {"id": "00000000-0000-0000-0000-000000000000"}),
    "no id": ("image", {"id": "../etc/passwd"}),
    "no argument": ("image", {}),
    "no such tool": ("delete_everything", {}),
}


def environment(folder: Path, redis_url: str = "redis://127.0.0.1:1/0") -> dict[str, str]:
    (port,) = free_ports(1)
    return {
        "PATH": os.environ["PATH"],
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(folder / "store"),
        "CELERY_BROKER_URL": redis_url,
        "TRITON_HOST": "127.0.0.1",
        "TRITON_PORT": str(port),
        "FLOWER_URL": "http://127.0.0.1:1",
        "SAGE_PASS": TOKEN,
        "LOG_LEVEL": "DEBUG",
    }


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Asked:
    folder = tmp_path_factory.mktemp("mcp")
    given = environment(folder, redis_server)
    keep(
        load_settings(vector_store="embedded", embedded_store_path=given["EMBEDDED_STORE_PATH"]),
        STORED,
    )
    command = StdioServerParameters(
        command=sys.executable, args=["main.py", "mcp"], cwd=ROOT, env=given
    )

    async def session() -> Asked:
        async with Client(command, read_timeout_seconds=120) as client:
            tools = (await client.list_tools()).tools
            answers = {name: await client.call_tool(*call) for name, call in CALLS.items()}
            return Asked({tool.name: tool for tool in tools}, client.instructions or "", answers)

    return asyncio.run(session())


def text_of(answer: CallToolResult) -> str:
    texts = [each.text for each in answer.content if isinstance(each, TextContent)]
    assert len(texts) == 1
    return texts[0]


def told(asked: Asked, name: str) -> dict[str, Any]:
    answer = asked.answers[name]
    assert not answer.is_error, answer
    found: dict[str, Any] = json.loads(text_of(answer))
    return found


def test_three_tools_are_offered_all_of_which_only_read(asked: Asked) -> None:
    assert set(asked.tools) == {"search", "image", "status"}
    for tool in asked.tools.values():
        assert tool.annotations and tool.annotations.read_only_hint
        assert tool.description and len(tool.description) > 80
    assert "SAGE" in asked.instructions


def test_arguments_are_typed_and_described_as_those_of_the_pages(asked: Asked) -> None:
    properties = asked.tools["search"].input_schema["properties"]
    assert set(properties) == {"text", *ARGUMENTS} - {"q", "caption_model", "weak", "fold"}
    for name, each in properties.items():
        meaning = ARGUMENTS["q" if name == "text" else name].meaning.replace("`q`", "`text`")
        assert each["description"].startswith(meaning)
    assert properties["limit"]["maximum"] == 50 and properties["like"]["type"] == "array"
    assert asked.tools["image"].input_schema["required"] == ["id"]


def test_a_search_finds_counts_and_says_that_it_is_by_text_only(asked: Asked) -> None:
    found = told(asked, "by words")
    assert [each["id"] for each in found["results"]] == [STORED[0].id] and found["total"] == 1
    assert found["counts"]["vsn"] == {"W021": 1}
    assert "text matches only" in found["notice"]  # no Triton in this test
    assert len(found["results"][0]["caption"]) == MAX_CAPTION + 1


def test_without_words_the_newest_are_listed_a_page_at_a_time(asked: Asked) -> None:
    found = told(asked, "newest")
    assert [each["id"] for each in found["results"]] == [STORED[1].id]
    assert (found["total"], found["next_page"]) == (2, 2)


def test_images_are_found_by_similarity_node_and_time(asked: Asked) -> None:
    assert STORED[0].id not in [each["id"] for each in told(asked, "similar")["results"]]
    assert [each["vsn"] for each in told(asked, "of a node")["results"]] == ["W07A"]


@pytest.mark.parametrize(("name", "stored"), [("a picture", 1), ("by a prefix", 0)])
def test_an_image_is_shown_small_with_its_details(asked: Asked, name: str, stored: int) -> None:
    details = told(asked, name)
    assert details["id"] == STORED[stored].id and details["link"] == STORED[stored].text["link"]
    assert details["caption"] == STORED[stored].text["caption"]
    (picture,) = (each for each in asked.answers[name].content if isinstance(each, ImageContent))
    data = base64.b64decode(picture.data)
    assert picture.mime_type == "image/jpeg" and len(data) <= MAX_PICTURE_BYTES
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.format == "JPEG" and max(decoded.size) <= 640


def test_the_state_of_the_system_is_told(asked: Asked) -> None:
    state = told(asked, "state")
    assert state["images_stored"] == 2 and state["components"]["redis"] == "ok"
    assert state["components"]["triton"] != "ok" and state["dead_letters"] is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong time", "since: expected a time such as 24h, 7d or 2026-01-31"),
        ("wrong type", "limit: Input should be a valid integer"),
        ("too many", "limit: Input should be less than or equal to 50"),
        ("unknown argument", "colour: expected one of text, like"),
        ("no such image", "id: there is no such image"),
        ("no id", "expected an image's id"),
        ("no argument", "id: Field required"),
        ("no such tool", "delete_everything"),
    ],
)
def test_an_error_is_one_line_that_says_what_is_expected(
    asked: Asked, name: str, message: str
) -> None:
    answer = asked.answers[name]
    line = text_of(answer)
    assert answer.is_error and message in line
    assert "\n" not in line and "Traceback" not in line and TOKEN not in line


def test_no_secret_of_this_machine_reaches_an_assistant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_PASS", TOKEN)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:of-redis@127.0.0.1:1/0")
    get_settings.cache_clear()
    found = SearchPageResult([], f"refused: {TOKEN}, of-redis")
    searches = MagicMock(search=lambda query: found)
    said = json.loads(Tools(MagicMock(), MagicMock(), searches).search("snow"))
    get_settings.cache_clear()
    assert said["notice"] == "refused: ***, ***"


def test_nothing_but_the_protocol_is_on_standard_output(tmp_path: Path) -> None:
    """Even where the store cannot be opened, and all is logged."""
    (tmp_path / "store").write_text("no folder")
    first: dict[str, object] = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    messages: list[dict[str, object]] = [
        {"id": 1, "method": "initialize", "params": first},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "search", "arguments": {}}},
    ]
    process = subprocess.Popen(
        [sys.executable, "main.py", "mcp"],
        cwd=ROOT,
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    with process:
        for message in messages:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()
        lines = []
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1].get("id") == 2:
                process.stdin.close()
        process.stderr.read()
    assert process.returncode == 0
    assert all(line["jsonrpc"] == "2.0" for line in lines)
    result = lines[-1]["result"]
    assert result["isError"] and "\n" not in result["content"][0]["text"]


def test_the_sdk_is_imported_by_this_command_alone() -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for folder in (
            "weavloader",
            "metrics",
            "inference",
            "job_system",
            "web",
            "demo",
            "commands",
        )
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
        if name.split(".")[0] in ("mcp", "mcp_types") or name == "web.assistant"
    }
    assert importers == {"web/assistant.py", "commands/mcp.py"}
    script = (
        "import sys, main, web.server\nfor name in ('mcp', 'mcp_types', 'starlette', 'uvicorn'):"
        " assert name not in sys.modules, name"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []

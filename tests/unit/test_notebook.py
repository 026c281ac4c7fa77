"""Searches and measurements as pandas tables: the columns of sage-data-client, the right rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import sage_data_client

from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, rfc3339
from demo.sage_replay.faults import Fault
from demo.sage_replay.server import Replay
from tests.support.pages import NOW, SNOW, STREET, an_image, keep, served
from weavloader import notebook
from weavloader.errors import ConfigError, TransientError
from weavloader.geo import Location
from weavloader.notebook import OURS, join_measurements, search
from weavloader.settings import get_settings, load_settings
from weavloader.stream.sage_api import DataApi

ROOT = Path(__file__).parents[2]
HERE = Location(41.9, -87.6)
# Newest first, an hour apart, of two nodes in turn.
STORED = [
    an_image(
        f"n{n}",
        "snow on a ridge" if n % 2 else "cars in a street",
        SNOW if n % 2 else STREET,
        minutes_ago=60 * (n + 1),
        vsn=f"W0{n % 2}1",
        location=HERE if n == 0 else None,
    )
    for n in range(6)
]


def entry(at: datetime, name: str, value: object, vsn: str | None, **meta: str) -> Entry:
    """A record of the data API; its time has nanoseconds, its node may be missing."""
    ns = int(at.timestamp() * 1_000_000) * 1000 + 936
    known = meta | ({"vsn": vsn} if vsn else {})
    return Entry({"timestamp": rfc3339(ns), "name": name, "value": value, "meta": known}, ns)


def around(image: int, seconds: float, value: object, **meta: str) -> Entry:
    """A temperature of an image's node, before or after it."""
    at, vsn = STORED[image].captured_at, STORED[image].text["vsn"]
    assert at is not None
    return entry(at + timedelta(seconds=seconds), "env.temperature", value, vsn, **meta)


MEASURED = [
    around(0, -40, 1.5, sensor="bme280"),
    around(0, 30, 2.5, sensor="bme680"),
    around(0, 30, 2.25, sensor="bme280"),
    around(1, -9 * 60, 3.5, sensor="bme680"),
    around(2, 11 * 60, 4.5, sensor="bme680"),  # too far away
    around(4, 5, 5),
    # Nearer, and of the other node that is asked for.
    entry(NOW - timedelta(minutes=60, seconds=-1), "env.temperature", -4, "W011"),
    # Of no node, of another, and of another name that a pattern would take for it.
    entry(NOW - timedelta(hours=4), "env.temperature", -1, None),
    entry(NOW - timedelta(hours=4), "env.temperature", -2, "W999"),
    entry(NOW - timedelta(hours=4), "env_temperature", -3, "W011"),
    entry(NOW - timedelta(hours=1), "sys.uptime", "12 days", "W001"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("notebook") / "store"
    settings = load_settings(vector_store="embedded", embedded_store_path=str(folder))
    keep(settings, STORED)
    with served(settings) as site:
        yield str(site.base_url)


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with Replay(Catalogue(MEASURED)) as server:
        yield server


@pytest.fixture
def endpoint(replay: Replay) -> str:
    return replay.environment()["SAGE_DATA_API"]


@pytest.fixture
def images(url: str) -> pd.DataFrame:
    return search(url=url)


def test_a_search_has_the_columns_and_types_of_sage_data_client(images: pd.DataFrame) -> None:
    line = json.dumps(
        {"timestamp": rfc3339(SECOND), "name": "upload", "value": "x", "meta": {"vsn": "W021"}}
    )
    theirs = sage_data_client.load([line.encode()])
    assert {*theirs.columns} <= {*images.columns}
    assert [images[name].dtype for name in theirs.columns] == [*theirs.dtypes]
    assert images["value"].tolist() == [image.text["link"] for image in STORED]
    assert images["meta.vsn"].tolist() == ["W001", "W011"] * 3
    moments = [pd.Timestamp(image.captured_at) for image in STORED if image.captured_at]
    assert images["timestamp"].tolist() == moments
    assert images["id"].tolist() == [image.id for image in STORED]
    assert {*OURS} <= {*images.columns}
    # What is not known is missing, as there.
    assert images["meta.task"].isna().all() and images["caption_model"].isna().all()
    assert images["latitude"].tolist()[0] == 41.9 and images["latitude"].count() == 1


def test_a_search_takes_what_the_pages_take(url: str) -> None:
    with pytest.warns(UserWarning, match="Image similarity is unavailable"):
        by_text = search("snow", url=url)
    of_snow = search("snow", url=url, alpha=0, weak=False)
    assert by_text["id"].tolist() == of_snow["id"].tolist()
    assert {*of_snow["caption"]} == {"snow on a ridge"} and (of_snow["score"] > 0).all()
    recent = search(url=url, vsn="W001", since=NOW - timedelta(hours=3.5), sort="oldest")
    assert recent["id"].tolist() == [STORED[2].id, STORED[0].id]
    alike = search(url=url, like=[STORED[0].id, STORED[2].id])
    assert alike["id"].tolist() == [STORED[4].id]
    none = search(url=url, vsn="W999")
    assert none.empty and [*none.columns] == [*recent.columns]
    assert [*none.dtypes] == [*recent.dtypes]


def test_a_search_that_is_refused_says_why(url: str) -> None:
    with pytest.raises(ConfigError, match="colour"):
        search(url=url, colour="red")
    with pytest.raises(ConfigError):
        search(url="http://h:port")
    with pytest.raises(TransientError, match="nowhere"):
        search(url="http://nowhere.invalid")
    with pytest.raises(TransientError, match="404"):
        search(url=f"{url}/elsewhere")


def test_an_image_gets_the_nearest_measurement_of_its_node(
    images: pd.DataFrame, endpoint: str
) -> None:
    joined = join_measurements(images, "env.temperature", endpoint=endpoint)
    assert [*joined.columns[: len(images.columns)]] == [*images.columns]
    values = joined["env.temperature"]
    assert values.dtype == "float64"
    assert values.dropna().to_dict() == {0: 2.5, 1: 3.5, 4: 5.0}
    assert joined["env.temperature.sensor"].dropna().to_dict() == {0: "bme680", 1: "bme680"}
    apart = (joined["env.temperature.timestamp"] - joined["timestamp"]).dt.total_seconds()
    assert apart.dropna().round(3).tolist() == [30, -540, 5]


def test_order_index_and_images_without_a_time_or_node_stay(
    images: pd.DataFrame, endpoint: str
) -> None:
    shuffled = images.iloc[[4, 0, 1, 2]].set_index(pd.Index([7, 7, 8, 9]))
    shuffled.loc[8, "timestamp"] = pd.NaT
    shuffled.loc[9, "meta.vsn"] = None
    joined = join_measurements(
        shuffled, ["env.temperature", "env.humidity"], tolerance="12min", endpoint=endpoint
    )
    assert [*joined.index] == [7, 7, 8, 9]
    assert joined["env.temperature"].tolist()[:2] == [5.0, 2.5]
    assert joined["env.temperature"].count() == 2
    assert joined["env.humidity"].isna().all()
    assert str(joined["env.humidity.timestamp"].dtype) == "datetime64[ns, UTC]"
    nothing = join_measurements(images.iloc[:0], "env.temperature", endpoint=endpoint)
    assert nothing.empty and [*nothing.columns[-3:]] == [*joined.columns[-6:-3]]


def test_measurements_can_be_filtered_and_be_texts(images: pd.DataFrame, endpoint: str) -> None:
    joined = join_measurements(
        images,
        ["env.temperature", "sys.uptime"],
        filter={"sensor": "bme280"},
        endpoint=endpoint,
    )
    assert joined["env.temperature"].dropna().to_dict() == {0: 2.25}
    assert joined["sys.uptime"].isna().all()
    joined = join_measurements(images, "sys.uptime", endpoint=endpoint)
    assert joined["sys.uptime"].dropna().to_dict() == {0: "12 days"}


def test_what_sage_data_client_asks_for_itself_can_be_joined_too(endpoint: str) -> None:
    """Its own tables have nanoseconds, and columns of their own."""
    measured = sage_data_client.query("-10h", endpoint=endpoint, filter={"sensor": "bme680"})
    joined = join_measurements(measured, "env.temperature", endpoint=endpoint)
    assert joined["env.temperature"].tolist() == joined["value"].tolist()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("garbage_line", "cannot be read"),
        ("half_line", "cannot be read"),
        ("status", "answered 503"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error(
    images: pd.DataFrame, replay: Replay, endpoint: str, kind: str, said: str
) -> None:
    replay.add_fault(Fault(kind))
    with pytest.raises(TransientError, match=said):
        join_measurements(images, "env.temperature", endpoint=endpoint)


def test_more_measurements_than_memory_holds_are_not_read(
    images: pd.DataFrame, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "MAX_MEASUREMENT_BYTES", 100)
    with pytest.raises(TransientError, match="larger than 100 bytes"):
        join_measurements(images, "env.temperature", endpoint=endpoint)
    with pytest.raises(ConfigError, match=r"not 'env\.\*'"):
        join_measurements(images, "env.*", endpoint=endpoint)


def test_a_request_is_for_some_hours_and_nodes() -> None:
    hours = [0, 1, 2, 5.5, 6.5, 20, 20]
    placed = pd.DataFrame(
        {
            "timestamp": [pd.Timestamp(NOW) + pd.Timedelta(hours=each) for each in hours],
            "meta.vsn": ["A"] * 7,
            "position": range(7),
        }
    )
    groups = [group["position"].tolist() for group in notebook._groups(placed)]
    assert groups == [[0, 1, 2], [3, 4], [5, 6]]
    many = placed.iloc[[0] * 45].assign(**{"meta.vsn": [f"W{n:03}" for n in range(45)]})
    assert [len(group) for group in notebook._groups(many)] == [20, 20, 5]


def test_our_reader_of_the_stream_reads_what_sage_data_client_reads(endpoint: str) -> None:
    """The service reads the stream with a reader of its own: same query, same records."""
    start = datetime.now(UTC) - timedelta(days=1)
    theirs = sage_data_client.query(start, endpoint=endpoint, filter={"name": "env.*"})
    with httpx.Client(timeout=10) as http:
        read: list[Any] = [*DataApi(endpoint, http).records({"name": "env.*"}, start)]
    ours = pd.DataFrame(
        {
            "timestamp": pd.to_datetime(record["timestamp"], utc=True),
            "name": record["name"],
            "value": record["value"],
            **{f"meta.{name}": value for name, value in record["meta"].items()},
        }
        for record in read
    )
    assert len(read) == len(MEASURED) - 1
    pd.testing.assert_frame_equal(ours, theirs, check_like=True)


@pytest.mark.filterwarnings("ignore:Image similarity")  # there is no Triton
def test_the_notebook_of_the_docs_runs_and_holds_no_output(
    url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its cells are executed in order, without a kernel: that would be 30 packages more."""
    told = json.loads((ROOT / "docs" / "search.ipynb").read_text())
    cells = [cell for cell in told["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.setenv("SAGE_DATA_API", endpoint)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    get_settings.cache_clear()
    try:
        for cell in cells:
            exec("".join(cell["source"]).replace(notebook.URL, url), names)
    finally:
        get_settings.cache_clear()
    assert {*names["snow"]["caption"]} == {"snow on a ridge"}
    kept = pd.read_parquet(tmp_path / "images.parquet")
    pd.testing.assert_frame_equal(kept, names["images"])
    assert names["images"]["env.temperature"].count() == 2


def test_pandas_and_its_kin_are_imported_by_the_notebook_alone() -> None:
    code = (
        "import main, web.server, processing, job_system.app, sys\n"
        "from weavloader.tables import parquet\n"
        "print({'pandas', 'pyarrow', 'sage_data_client'} & sys.modules.keys())\n"
        "list(parquet([[{'a': 'b', 'c': 1}]], ['a', 'c'], {'c': 'number'}))\n"
        "print({'pandas', 'pyarrow', 'sage_data_client'} & sys.modules.keys())\n"
        "import weavloader.notebook\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split("\n")[:3] == ["set()", "{'pyarrow'}", "True"], done.stderr

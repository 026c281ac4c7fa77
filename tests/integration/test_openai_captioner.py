"""A real processor whose captions come from a server that is not Triton, and its faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis as redis_py

from demo.cases import STORED
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.support.local_server import Answer
from tests.support.openai_stand_in import (
    CAPTION,
    KEY,
    MODEL,
    OpenAIStandIn,
    completion,
    openai_stand_in,
    picture_in,
    refusal,
)
from tests.support.whole_site import WholeSite, whole_site
from weavloader.circuits import Circuit, open_circuits
from weavloader.store import connect_store
from weavloader.store.base import Filters

pytestmark = pytest.mark.timeout(240)

AMOUNT = 6
WAIT_SECONDS = 90


@pytest.fixture
def captioner() -> Iterator[OpenAIStandIn]:
    with openai_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def site(captioner: OpenAIStandIn, triton: Triton, tmp_path: Path) -> Iterator[WholeSite]:
    more = {
        "CAPTION_MODEL": "openai",
        "OPENAI_BASE_URL": captioner.url,
        "OPENAI_API_KEY": KEY,
        "OPENAI_MODEL": MODEL,
    }
    with whole_site(tmp_path, triton, images=60, more=more) as started:
        yield started


def circuits(site: WholeSite) -> list[Circuit]:
    with redis_py.Redis.from_url(site.environment["CELERY_BROKER_URL"]) as redis:
        return open_circuits(redis)


def captions(site: WholeSite) -> list[str]:
    with closing(connect_store(site.settings)) as store:
        return [each.text["caption"] for each in store.newest(Filters(), AMOUNT)]


@pytest.mark.parametrize(
    ("fault", "is_of_all", "reason"),
    [
        # A server that repeats what it was sent.
        (refusal(401, f"Incorrect API key: {KEY}"), True, "captioner_auth"),
        (refusal(500, f"the model is dead, {KEY}"), False, "captioner_error"),
    ],
    ids=["the key is refused", "the model fails"],
)
def test_images_wait_while_the_captioner_fails_and_none_is_lost(
    fault: Answer,
    is_of_all: bool,
    reason: str,
    captioner: OpenAIStandIn,
    site: WholeSite,
    tmp_path: Path,
) -> None:
    good = captioner.models
    captioner.models, captioner.completions = fault if is_of_all else good, [fault]
    images = [image for image in site.images if image.expected and image.expected.status == STORED]
    site.publish(images[:AMOUNT])
    wait_until(lambda: circuits(site), "the circuit to open", WAIT_SECONDS)
    (circuit,) = circuits(site)
    assert (circuit.stage, circuit.component, circuit.reason) == ("caption", "captioner", reason)
    assert site.stored() == 0
    captioner.models, captioner.completions = good, [completion(CAPTION)]
    wait_until(lambda: site.stored() == AMOUNT, "every image in the store", WAIT_SECONDS)
    wait_until(lambda: not circuits(site), "the circuit to close", WAIT_SECONDS)
    assert not site.dead()
    assert captions(site) == [CAPTION] * AMOUNT
    for body in captioner.asked:
        picture = picture_in(body)
        assert picture.width * picture.height <= 896 * 896
    log = (tmp_path / "processor.log").read_text()
    assert "circuit of captioner opened at stage caption" in log
    assert KEY not in log

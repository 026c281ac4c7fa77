"""On images drawn with known answers, both stores find the same, and a search finds them."""

from __future__ import annotations

import pytest
from rich.console import Console
from tritonclient.grpc import InferenceServerClient

from demo.search_quality import (
    ALPHAS,
    agreement,
    answers,
    described,
    drawn,
    embedders,
    quality,
    queries,
    stores,
)
from demo.servers.weaviate import HOW_TO_GIVE_ONE
from tests.support.missing_parts import skip_without

# With the preview models: 0.61, 0.85 and 0.65 as of November 2026.
MIN_RECALL = {"keyword": 0.55, "hybrid": 0.8, "vector": 0.6}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_stores_find_what_was_drawn(
    triton_client: InferenceServerClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    images, asked = drawn(), queries()
    assert len(images) >= 200
    assert len(asked) >= 40
    objects = list(described(triton_client, images))
    embed = embedders(triton_client)["clip"]
    with stores(tmp_path_factory.mktemp("quality"), Console()) as opened:
        found = {}
        for name, store in opened.items():
            store.prepare()
            store.upsert(objects)
            found[name] = {
                way: answers(store, asked, embed, alpha=alpha) for way, alpha in ALPHAS.items()
            }
    for by_way in found.values():
        for way, least in MIN_RECALL.items():
            assert quality(by_way[way], asked, images).recall >= least
    if "weaviate" not in found:
        skip_without(f"agreement was not looked at: {HOW_TO_GIVE_ONE}")
    for way in ALPHAS:
        ours, theirs = (found[name][way] for name in ("embedded", "weaviate"))
        assert agreement(ours, theirs) >= 0.95
        one, other = (quality(each, asked, images) for each in (ours, theirs))
        assert one.recall == pytest.approx(other.recall, abs=0.03)
        assert one.mrr == pytest.approx(other.mrr, abs=0.03)

"""The server that stands in for Triton where it has no wheel answers as Triton does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tritonclient.grpc import InferenceServerClient, service_pb2
from tritonclient.utils import InferenceServerException

from demo.servers.preview_server import running_preview_server

# The tests of a real Triton, by the fixture below on the server of this module.
from tests.integration.test_model_contracts import test_the_previews_keep_them
from tests.integration.test_preview_models import (
    test_a_caption_names_what_is_there_and_no_other_scene,
    test_colbert_finds_the_caption_a_query_means,
    test_words_find_the_picture_they_mean,
)
from tests.integration.test_triton_models import (
    test_a_caption_model_captions_and_says_it_is_a_preview,
    test_an_embedding_model_embeds,
    test_an_unknown_florence_task_is_refused,
    test_bad_input_is_refused_for_good_and_the_model_lives_on,
    test_every_model_that_can_be_configured_is_ready,
    test_florence_gives_boxes_in_pixels_of_the_image_it_was_given,
    test_text_of_any_script_and_length_is_embedded,
)

__all__ = [
    "test_a_caption_model_captions_and_says_it_is_a_preview",
    "test_a_caption_names_what_is_there_and_no_other_scene",
    "test_an_embedding_model_embeds",
    "test_an_unknown_florence_task_is_refused",
    "test_bad_input_is_refused_for_good_and_the_model_lives_on",
    "test_colbert_finds_the_caption_a_query_means",
    "test_every_model_that_can_be_configured_is_ready",
    "test_florence_gives_boxes_in_pixels_of_the_image_it_was_given",
    "test_text_of_any_script_and_length_is_embedded",
    "test_the_previews_keep_them",
    "test_words_find_the_picture_they_mean",
]
TIMEOUT = 20.0


@pytest.fixture(scope="module")
def preview_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a running preview server."""
    with running_preview_server(tmp_path_factory.mktemp("preview") / "server.log") as address:
        yield address


@pytest.fixture
def triton_client(preview_server: str) -> Iterator[InferenceServerClient]:
    """A client of the preview server, by the name that the tests of Triton use."""
    client = InferenceServerClient(preview_server)
    yield client
    client.close()


def test_it_is_live_ready_and_says_that_it_is_not_triton(
    triton_client: InferenceServerClient,
) -> None:
    assert triton_client.is_server_live(client_timeout=TIMEOUT)
    assert triton_client.is_server_ready(client_timeout=TIMEOUT)
    metadata = triton_client.get_server_metadata(client_timeout=TIMEOUT)
    assert metadata.name == "weavloader-preview-server"


def test_an_unknown_model_is_not_found_and_not_ready(triton_client: InferenceServerClient) -> None:
    assert not triton_client.is_model_ready("gpt", client_timeout=TIMEOUT)
    with pytest.raises(InferenceServerException) as caught:
        triton_client.get_model_metadata("gpt", client_timeout=TIMEOUT)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff", b"\1\0\0\0a\1\0\0\0b"])
def test_content_that_does_not_fit_its_shape_is_refused(
    content: bytes, triton_client: InferenceServerClient
) -> None:
    request = service_pb2.ModelInferRequest(model_name="colbert", raw_input_contents=[content])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    with pytest.raises(Exception, match="text: ") as caught:
        triton_client._client_stub.ModelInfer(request, timeout=TIMEOUT)
    assert caught.value.code().name == "INVALID_ARGUMENT"  # type: ignore[attr-defined]

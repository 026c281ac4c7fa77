"""Embedding models: CLIP and ALIGN, one space for images and texts, and ColBERT.

ColBERT has a vector for every token of a text. The marks, the padding of queries and the
punctuation left out of documents are those of Khattab and Zaharia, ColBERT (2020), as the code
that trained ColBERTv2 has them.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AlignModel, AutoTokenizer, BertModel, BertPreTrainedModel, CLIPModel

from .backend import Picture, Tensors, read_parameter, read_picture, read_text
from .batching import InputError
from .compiled import Compiled, encoder_pieces, should_compile, warm_up
from .settings import Settings
from .weights import load_model, load_processor, picture_inputs, special_tokens, stripper, to_model

_ALIGN_TOKENS = 64
"""As in its training."""
_DIMENSION = 128
_QUERY_TOKENS = 32
_QUERY_MARK, _DOCUMENT_MARK = "[unused0]", "[unused1]"


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and an image, each or ``None``."""

    text: str | None
    image: Picture | None


def load_clip(settings: Settings) -> DualEncoderModel:
    """CLIP; texts are truncated to its 77 tokens."""
    model = load_model(CLIPModel, settings)
    tokens = model.config.text_config.max_position_embeddings
    return DualEncoderModel(model, load_processor(settings), settings, tokens)


def load_align(settings: Settings) -> DualEncoderModel:
    """ALIGN; texts are truncated to 64 tokens."""
    return DualEncoderModel(
        load_model(AlignModel, settings), load_processor(settings), settings, _ALIGN_TOKENS
    )


class DualEncoderModel:
    """A vector for a text, an image, or each of both; zeros for an input that was not given.

    Args:
        max_tokens: Texts are truncated and padded to this length.
    """

    decoder = None

    def __init__(self, model: Any, processor: Any, settings: Settings, max_tokens: int) -> None:
        self._model = model
        self._processor = processor
        self._settings = settings
        self._max_tokens = max_tokens
        self._strip = stripper(special_tokens(processor.tokenizer))
        pieces = encoder_pieces(model)
        compiles = bool(pieces) and should_compile(settings.compile_pieces, model.device)
        self._pieces = Compiled(pieces if compiles else [], dynamic=None)
        if compiles:
            # As in slots; and attention has no mask where every text is as long as it may be.
            numbers = (2, 3, 1, *range(4, settings.batch_size + 1))
            warm_up([(rows, words) for rows in numbers for words in (1, max_tokens)], self._try)

    def _try(self, shape: tuple[int, int]) -> None:
        """Embed some pairs at once, with texts of so many words."""
        rows, words = shape
        self.run([Pair("a " * words, np.zeros((64, 64, 3), np.uint8))] * rows)

    def prepare(self, request: Any) -> Pair:
        """As :meth:`serving.backend.Model.prepare`."""
        text = read_text(request, "text", self._settings.max_characters)
        picture = read_picture(request, self._settings.max_pixels)
        return Pair(self._words(text) if text.strip() else None, picture)

    def run(self, inputs: Sequence[Pair]) -> list[Tensors]:
        """``text_embedding`` and ``image_embedding``, float32 [1, D], not normalised."""
        with self._pieces:
            # A GPU is still busy with the pictures while the texts are prepared.
            images = self._embedded(self._of_pictures, [pair.image for pair in inputs])
            texts = self._embedded(self._of_texts, [pair.text for pair in inputs])
        return [
            {"text_embedding": text[None], "image_embedding": image[None]}
            for text, image in zip(texts(), images(), strict=True)
        ]

    def _words(self, text: str) -> str:
        words = self._strip(text)
        if not words:
            raise InputError("text: nothing but special tokens")
        return words

    def _of_texts(self, texts: list[str]) -> Any:
        tokens = self._processor.tokenizer(
            texts,
            truncation=True,
            padding="max_length",
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        return self._model.get_text_features(**to_model(self._model, tokens))

    def _of_pictures(self, pictures: list[Picture]) -> Any:
        pixels = self._processor.image_processor(
            **picture_inputs(pictures, self._model.device), return_tensors="pt"
        )
        return self._model.get_image_features(**to_model(self._model, pixels))

    def _embedded(
        self, features: Callable[[list[Any]], Any], inputs: Sequence[Any]
    ) -> Callable[[], NDArray[np.float32]]:
        """What waits for a vector for each of ``inputs``, zeros for ``None``."""
        vectors = np.zeros((len(inputs), self._model.config.projection_dim), np.float32)
        given = [row for row, each in enumerate(inputs) if each is not None]
        if not given:
            return lambda: vectors
        with torch.inference_mode():
            found = features([inputs[row] for row in given]).pooler_output

        def wait() -> NDArray[np.float32]:
            vectors[given] = found.float().cpu().numpy()
            return vectors

        return wait


class ColBERT(BertPreTrainedModel):
    """The layout of a ColBERT checkpoint: BERT, and a linear layer without a bias."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.linear = torch.nn.Linear(config.hidden_size, _DIMENSION, bias=False)
        self.post_init()

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Unit vectors [rows, tokens, 128]."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return torch.nn.functional.normalize(self.linear(states), dim=2)


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens of a text.

    Attributes:
        ids: Their numbers.
        attended: How many of them, from the first, are attended to.
        kept: Positions whose vectors are returned.
    """

    ids: list[int]
    attended: int
    kept: list[int]


def load_colbert(settings: Settings) -> ColBERTModel:
    """ColBERT with its tokenizer."""
    return ColBERTModel(
        load_model(ColBERT, settings), load_processor(settings, AutoTokenizer), settings
    )


class ColBERTModel:
    """Vectors of documents; of a query where the request's parameter ``role`` says ``query``."""

    decoder = None

    def __init__(self, model: Any, tokenizer: Any, settings: Settings) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._strip = stripper(special_tokens(tokenizer))
        self._max_tokens = model.config.max_position_embeddings
        self._punctuation = set(tokenizer.convert_tokens_to_ids(list(string.punctuation)))

    def prepare(self, request: Any) -> Text:
        """As :meth:`serving.backend.Model.prepare`."""
        text = self._strip(read_text(request, "text", self._settings.max_characters))
        if not text:
            raise InputError("text: blank, or nothing but special tokens")
        if read_parameter(request, "role") == "query":
            return self._query(text)
        return self._document(text)

    def run(self, inputs: Sequence[Text]) -> list[Tensors]:
        """``embedding`` float32 [1, tokens*128] and ``token_lengths`` int32 [1]."""
        longest = max(len(text.ids) for text in inputs)
        ids = torch.full((len(inputs), longest), self._tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(inputs):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
            mask[row, : text.attended] = 1
        batch = to_model(self._model, {"input_ids": ids, "attention_mask": mask})
        with torch.inference_mode():
            vectors = self._model(**batch).float().cpu().numpy()
        return [_outputs(vectors[row][text.kept]) for row, text in enumerate(inputs)]

    def _query(self, text: str) -> Text:
        ids = self._marked(text, _QUERY_MARK, _QUERY_TOKENS)
        padding = [self._tokenizer.mask_token_id] * (_QUERY_TOKENS - len(ids))
        return Text([*ids, *padding], len(ids), list(range(_QUERY_TOKENS)))

    def _document(self, text: str) -> Text:
        ids = self._marked(text, _DOCUMENT_MARK, self._max_tokens)
        kept = [position for position, each in enumerate(ids) if each not in self._punctuation]
        return Text(ids, len(ids), kept)

    def _marked(self, text: str, mark: str, max_length: int) -> list[int]:
        # Truncated by the tokenizer; two for [CLS] and [SEP], one for the mark.
        tokenizer = self._tokenizer
        words = tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=max_length - 3
        )["input_ids"]
        mark_id = tokenizer.convert_tokens_to_ids(mark)
        return [tokenizer.cls_token_id, mark_id, *words, tokenizer.sep_token_id]


def _outputs(vectors: Any) -> Tensors:
    return {
        "embedding": vectors.reshape(1, -1),
        "token_lengths": np.array([len(vectors)], dtype=np.int32),
    }

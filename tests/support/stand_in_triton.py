"""A client of Triton that answers as it is told, for faults no real model can be made to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[Any]


def text(answer: str | bytes) -> Tensor:
    """A STRING [1] output."""
    data = answer.encode() if isinstance(answer, str) else answer
    return np.array([data], dtype=np.object_)


@dataclass
class StandInResult:
    """Outputs, as the real client's result gives them."""

    outputs: Mapping[str, Tensor]

    def as_numpy(self, name: str) -> Tensor | None:
        """The output, ``None`` for one there is not."""
        return self.outputs.get(name)


@dataclass(eq=False)
class StandInClient:
    """Answers each call with the next of ``answers``, the last one for ever; raises errors."""

    answers: list[Mapping[str, Tensor] | Exception]
    sent: list[Any] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    parameters: list[Mapping[str, str] | None] = field(default_factory=list)

    def infer(self, model: str, inputs: list[Any], **options: Any) -> StandInResult:
        """As the real client's."""
        self.sent.append({each.name(): each for each in inputs})
        self.timeouts.append(options["client_timeout"])
        self.parameters.append(options["parameters"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return StandInResult(answer)

    def bytes_sent(self) -> int:
        """Size of all tensors sent so far."""
        return sum(len(each._get_content()) for call in self.sent for each in call.values())

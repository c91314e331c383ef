"""What ShareWeights' options may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from burnish.plugins.passes.share_weights import ShareWeightsConfig


@pytest.mark.parametrize("options", [{"clusters": 2}, {"clusters": 256}, {"granularity": "Group", "groupSize": 64}, {"granularity": "Group"}])
def test_options_that_are_taken(options: dict[str, Any]) -> None:
    assert ShareWeightsConfig.model_validate(options).clusters == options.get("clusters", 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clusters": 1}, "greater than or equal to 2"),
        ({"clusters": 257}, "less than or equal to 256"),
        ({"groupSize": 32}, "belongs to granularity: Group, but granularity is Tensor"),
        ({"granularity": "Channel", "groupSize": 32}, "belongs to granularity: Group, but granularity is Channel"),
        ({"granularity": "Group", "groupSize": 33}, "Input should be 8, 16"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ShareWeightsConfig.model_validate(options)

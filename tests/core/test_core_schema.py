"""Schemas refuse what cannot be meant, and say how to mend it."""

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.core.schema import InputSchema, OutputSchema


def schema(**changes: object) -> InputSchema:
    given: dict[str, object] = {
        "channels": ("x", "y"),
        "units": ("g", "g"),
        "rate_hz": 50.0,
        "window": 100,
        "hop": 50,
        "shape": (2, 100),
    }
    return InputSchema(**{**given, **changes})  # type: ignore[arg-type]


def test_a_schema_that_holds_together() -> None:
    assert schema(mean=(0.0, 1.0), scale=(1.0, 2.0)).hop == 50


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"channels": (), "units": ()}, "at least one channel"),
        ({"units": ("g",)}, "2 channels and 1 units"),
        ({"rate_hz": 0.0}, "rate > 0"),
        ({"hop": 101}, "hop ≤ window"),
        ({"hop": 0}, "1 ≤ hop"),
        ({"mean": (0.0,)}, "1 values of mean for 2 channels"),
        ({"scale": (1.0, 0.0)}, "above 0"),
    ],
)
def test_a_schema_that_does_not(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        schema(**changes)


def test_a_label_for_each_logit() -> None:
    with pytest.raises(UsageError, match="1 labels for 2 logits"):
        OutputSchema(task="classification", size=2, labels=("a",))
    assert OutputSchema(task="regression", size=2).labels == ()

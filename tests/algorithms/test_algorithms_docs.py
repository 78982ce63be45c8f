"""The page of the algorithms names each with all its settings."""

import re
from pathlib import Path
from typing import get_args

import msgspec

from hedgerow.algorithms.base import Algorithm, Weighting
from hedgerow.algorithms.catalogue import AnyAlgorithm

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text("utf-8")


def test_every_algorithm_and_setting_is_explained() -> None:
    kinds: tuple[type[Algorithm], ...] = get_args(AnyAlgorithm)
    names = {str(kind.__struct_config__.tag) for kind in kinds}
    names |= {name for kind in kinds for name in kind.__struct_fields__}
    assert [name for name in sorted(names) if f"`{name}`" not in PAGE] == []


def test_it_names_no_algorithm_that_is_not_there() -> None:
    table = PAGE[PAGE.index("| `name`") : PAGE.index("## Settings")]
    listed = re.findall(
        r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:-1])
    )
    kinds: tuple[type[Algorithm], ...] = get_args(AnyAlgorithm)
    assert sorted(listed) == sorted(str(kind.__struct_config__.tag) for kind in kinds)


def test_the_weighting_shown_is_the_default() -> None:
    shown = re.search(r"`{(by = [^}]*)}`", PAGE)
    assert shown is not None
    pairs = dict(part.split(" = ") for part in shown[1].split(", "))
    given = {name: msgspec.json.decode(value) for name, value in pairs.items()}
    assert msgspec.convert(given, Weighting) == Weighting()

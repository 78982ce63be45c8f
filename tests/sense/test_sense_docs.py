"""The page on sensing shows what really happens, and leaves out no augmentation or setting."""

import contextlib
import io
import re
import runpy
from pathlib import Path

import msgspec

from hedgerow.decide.rules import Band, Rule
from hedgerow.sense.augment import TRANSFORMS
from hedgerow.sense.quality import QualityLimits

PAGE = (Path(__file__).parents[2] / "docs" / "sensing.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says(tmp_path: Path) -> None:
    match = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    example = tmp_path / "example.py"
    example.write_text(match[1], encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(example))
    assert printed.getvalue() == match[2]


def test_every_augmentation_is_listed_with_its_usual_strength() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ", PAGE, re.MULTILINE))
    assert {name: float(number) for name, number in listed.items() if name in TRANSFORMS} == {
        name: transform.strength for name, transform in TRANSFORMS.items()
    }


def test_every_setting_is_named() -> None:
    for kind in (Rule, Band, QualityLimits):
        for field in msgspec.structs.fields(kind):
            if field.type is not str and field.name != "labels":
                assert f"`{field.name}`" in PAGE, field.name

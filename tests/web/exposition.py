"""A strict reader of the Prometheus text exposition format 0.0.4, as its specification has it.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r"[a-zA-Z_][a-zA-Z0-9_]*"
VALUE = r'(?:[^"\\\n]|\\\\|\\"|\\n)*'
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+|Inf)|NaN"
HELP = re.compile(rf"# HELP ({NAME}) ((?:[^\\]|\\\\|\\n)*)")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge|histogram|summary|untyped)")
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:{LABEL}="{VALUE}",?)*)\}})? ({NUMBER})(?: (-?\d+))?')
PAIR = re.compile(rf'({LABEL})="({VALUE})"')

Labels = tuple[tuple[str, str], ...]


class Read:
    """Types by family and values by name and labels; building it checks the whole text."""

    def __init__(self, text: str) -> None:
        assert text.endswith("\n"), "the last line must end with a line feed"
        self.types: dict[str, str] = {}
        self.values: dict[tuple[str, Labels], float] = {}
        family, helped = "", ""
        for line in text[:-1].split("\n"):
            if match := HELP.fullmatch(line):
                helped = match[1]
            elif match := TYPE.fullmatch(line):
                family = match[1]
                assert helped == family, f"{family} has no help"
                assert family not in self.types, f"{family} comes twice"
                self.types[family] = match[2]
            else:
                match = SAMPLE.fullmatch(line)
                assert match, f"no sample: {line!r}"
                self._sample(family, match)
        for name, kind in self.types.items():
            self._check(name, kind)

    def _sample(self, family: str, match: re.Match[str]) -> None:
        name = match[1]
        suffixes = ("_bucket", "_sum", "_count") if self.types[family] == "histogram" else ("",)
        assert name in [family + suffix for suffix in suffixes], f"{name} is not of {family}"
        pairs = [(key, unescaped(value)) for key, value in PAIR.findall(match[2] or "")]
        assert len({key for key, _ in pairs}) == len(pairs), f"a label comes twice: {match[0]}"
        key = (name, tuple(sorted(pairs)))
        assert key not in self.values, f"{key} comes twice"
        self.values[key] = float(match[3].replace("Inf", "inf"))

    def _check(self, name: str, kind: str) -> None:
        own = {key: value for key, value in self.values.items() if key[0].startswith(name)}
        if kind == "counter":
            assert name.endswith("_total"), f"a counter ends in _total: {name}"
            assert all(value >= 0 for value in own.values()), name
        else:
            assert not name.endswith("_total"), f"no counter ends so: {name}"
        if kind == "histogram":
            bounds = [(float(dict(k[1])["le"].replace("Inf", "inf")), v)
                      for k, v in own.items() if k[0] == f"{name}_bucket"]  # fmt: skip
            assert bounds == sorted(bounds), "buckets grow"
            assert bounds[-1][0] == math.inf
            assert bounds[-1][1] == self.values[f"{name}_count", ()]


def unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)

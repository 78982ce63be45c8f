"""Rules for the source that the other tools do not hold."""

import ast
from collections.abc import Iterator

import pytest

from tests.tidy.sources import PACKAGE, PURE_ROOMS, ROOT, modules

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400

AMBIENT = (
    "random",
    "secrets",
    "time",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "datetime.date.today",
    "os.environ",
    "os.getenv",
    "os.getpid",
    "os.getrandom",
    "os.urandom",
    "uuid.uuid1",
    "uuid.uuid4",
)
SEEDED = (
    "BitGenerator",
    "Generator",
    "PCG64",
    "PCG64DXSM",
    "Philox",
    "SeedSequence",
    "default_rng",
)
"""What of `numpy.random` a pure room may name; all of it is seeded by an argument."""


def ambient(tree: ast.Module) -> Iterator[str]:
    """Each use of a clock, chance or environment that is not an argument, as `line: name`."""
    names = _imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            name = _full_name(node, names)
            if _is_ambient(name):
                yield f"{node.lineno}: {name}"
        elif isinstance(node, ast.Call):
            name = _full_name(node.func, names)
            if name.startswith("numpy.random.") and _is_unseeded(node):
                yield f"{node.lineno}: {name}() without a seed"
            if name == "hash":
                yield f"{node.lineno}: hash(), which differs between processes"


def _imported_names(tree: ast.Module) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        # A name that no import brought is the module's own, or a builtin: never `random` itself.
        return names.get(node.id, "hash" if node.id == "hash" else "")
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _is_ambient(name: str) -> bool:
    if name.startswith("numpy.random."):
        return name.split(".")[2] not in SEEDED
    return any(name == word or name.startswith(f"{word}.") for word in AMBIENT)


def _is_unseeded(call: ast.Call) -> bool:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(isinstance(value, ast.Constant) and value.value is None for value in values)


def test_pure_rooms_take_time_and_chance_as_arguments() -> None:
    rooms = tuple(f"src/hedgerow/{room}/" for room in PURE_ROOMS)
    found = [
        f"{path}:{use}"
        for path, tree in modules().items()
        if path.startswith(rooms)
        for use in ambient(tree)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nrng = np.random.default_rng()",
        "import numpy as np\nrng = np.random.default_rng(seed=None)",
        "from numpy.random import default_rng\nrng = default_rng(None)",
        "import numpy as np\nx = np.random.rand(3)",
        "from numpy import random\nx = random.normal()",
        "import random\nx = random.random()",
        "from time import monotonic as now\nx = now()",
        "import time\nclock = time.perf_counter",
        "from datetime import UTC, datetime\nx = datetime.now(UTC)",
        "import os\nx = os.urandom(8)",
        "import uuid\nx = uuid.uuid4()",
        "from secrets import token_bytes\nx = token_bytes(4)",
        "x = hash('a')",
    ],
)
def test_the_check_sees_what_is_ambient(source: str) -> None:
    assert list(ambient(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nrng = np.random.default_rng(7)",
        "import numpy as np\nrng = np.random.Generator(np.random.PCG64(seed))",
        "def draw(rng, time):\n    return rng.normal() + time",
        "from datetime import datetime\nx = datetime.fromtimestamp(seconds)",
        "class A:\n    def __hash__(self):\n        return 1",
    ],
)
def test_the_check_leaves_arguments_alone(source: str) -> None:
    assert list(ambient(ast.parse(source))) == []


def test_functions_are_short() -> None:
    found = [
        f"{path}:{node.lineno}: {node.name} has {lines} lines"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert found == []


def test_modules_are_short() -> None:
    found = [
        f"{path} has {lines} lines"
        for path in modules()
        if (lines := len((ROOT / path).read_text("utf-8").splitlines())) > MODULE_LINES_MAX
    ]
    assert found == []


def test_every_room_says_what_it_is() -> None:
    found = [
        path
        for path, tree in modules().items()
        if path.endswith("__init__.py") and not ast.get_docstring(tree)
    ]
    assert found == []


def test_every_room_has_tests() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    tested = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert rooms - tested == set()


def test_every_test_module_has_the_name_of_its_room() -> None:
    # Names are unique that way, and a failing test says where to look.
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if not path.name.startswith(f"test_{path.parent.name}_")
    ]
    assert found == []

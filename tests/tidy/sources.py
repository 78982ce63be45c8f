"""What the tidy tests read: the project's files and the syntax trees of its modules."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "hedgerow"
PURE_ROOMS = (
    *("core", "sense", "model", "decide", "seal", "aggregate"),
    *("ledger", "algorithms", "wire", "protocol"),
)


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of each module of the package, by its path from the root."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def project_files() -> list[Path]:
    """Every file that is, or with the next `git add` would be, in the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]

"""`hedgerow model`: export, inspect, check."""

import json
from pathlib import Path

from click.testing import CliRunner

from hedgerow.cli.model import command
from hedgerow.model.bundle import Bundle

FACTORY = "tests.author.modules:dense"
OTHER = "tests.author.modules:other_dense"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, list(arguments))
    return result.exit_code, result.output


def test_export_inspect_check(tmp_path: Path) -> None:
    path = str(tmp_path / "dense.hedgerow")
    code, text = run("export", FACTORY, "-o", path, "--json")
    assert code == 0
    made = json.loads(text)
    assert made["hash"] == Bundle.load(path).hash and made["parameters"] == 164

    code, text = run("inspect", path, "--json")
    assert code == 0 and json.loads(text)["manifest"]["layout"]["tensors"][0]["name"] == "0.weight"
    code, text = run("inspect", path)
    assert "private 5.weight [4, 8]" in text

    code, text = run("check", path, "--factory", FACTORY, "--json")
    figures = json.loads(text)
    assert code == 0 and figures["agrees"] and figures["largest"] < 1e-5
    code, text = run("check", path, "--factory", OTHER)
    assert code == 1 and "largest" in text

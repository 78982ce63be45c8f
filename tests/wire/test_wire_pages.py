"""The pages of specification say what the code does."""

import ast
import inspect
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedgerow.core import fixed
from hedgerow.protocol import buffered, coordinator, counting, learning, rounds
from hedgerow.serve import coordinator as shell
from hedgerow.wire import codec
from hedgerow.wire.events import EVENT_MESSAGES
from hedgerow.wire.messages import MESSAGES, Accept, Message, kind_of, round_of, update_id

PAGES = Path(__file__).parents[2] / "docs" / "messages"
BY_KIND = {kind_of(message): message for message in (*MESSAGES, *EVENT_MESSAGES)}


def example(page: str) -> str:
    """The first block of JSON on a page."""
    found = re.search(r"```json\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    assert found, f"docs/messages/{page}.md starts with no example"
    return found.group(1)


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """A table below a heading: the word in its first column → the other columns."""
    text = (PAGES / f"{page}.md").read_text().split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def fields_of(kind: type[msgspec.Struct]) -> set[str]:
    """Names of the fields, nested ones with a dot."""
    names: set[str] = set()
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            names |= {f"{field.encode_name}.{name}" for name in fields_of(field.type)}
        else:
            names.add(field.encode_name)
    return names


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_the_example_is_such_a_message(kind: str) -> None:
    message = msgspec.json.decode(example(kind), type=BY_KIND[kind])
    assert json.loads(example(kind))["kind"] == kind
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=BY_KIND[kind])
    assert again == message


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_every_field_is_in_the_table(kind: str) -> None:
    assert set(rows(kind, "Fields")) == fields_of(BY_KIND[kind])


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_the_page_says_what_copies_do(kind: str) -> None:
    text = (PAGES / f"{kind}.md").read_text().split("## Copies, replays, late and stale ones")[1]
    for word in ("duplicate", "replay", "late", "stale"):
        assert word in text
    assert f"[`{kind}`]({kind}.md)" in (PAGES / "index.md").read_text()


def test_no_page_is_left_of_a_message_that_is_gone() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*BY_KIND, "envelope", "index"}


def test_the_example_of_the_envelope_holds_what_the_page_says() -> None:
    version, body, _ = json.loads(example("envelope"))
    assert version == 1
    assert msgspec.msgpack.decode(b64decode(body), type=Accept) == Accept(round=5)


def outcomes_in(*modules: Any) -> set[str]:
    """Every word that can become an outcome: PeerError's reasons, and what `_update` names."""
    words: set[str] = set()
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                if node.func.id == "PeerError":
                    words.add(str(texts[0]))
                if node.func.id == "_refused":
                    words |= {str(text) for text in texts}
    functions = [f for m in (rounds, buffered) for f in (m.out_of_place, m.known_outcome)]
    for function in (coordinator._update, *functions):
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            value = node.value if isinstance(node, ast.Return | ast.Assign) else None
            either = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
            words |= {
                one.value
                for one in either
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            }
    return words


def test_every_outcome_the_code_can_give_is_in_the_table() -> None:
    modules = (codec, fixed, coordinator, counting, rounds, buffered, learning, shell)
    words = outcomes_in(*modules) | {"bad_payload"}  # of every decoder in `seal`
    assert {"counted", "late", "forged", "misplaced", "unknown_device"} <= words
    assert set(rows("receipt", "Outcomes")) == words


def test_the_id_of_an_update_names_its_round() -> None:
    assert update_id("UAB", 7) == "UAB/7/update"
    assert round_of(update_id("UAB", 7)) == 7


def test_every_field_is_bounded() -> None:
    """A text, list or map without a bound could fill a receiver."""
    for message in MESSAGES:
        _check_bounded(msgspec.inspect.type_info(message), message)


def _check_bounded(info: msgspec.inspect.Type, where: type[Message]) -> None:
    match info:
        case msgspec.inspect.StructType():
            for field in info.fields:
                if field.encode_name != "payloads":  # bounded by the envelope that holds it
                    _check_bounded(field.type, where)
        case msgspec.inspect.StrType():
            assert info.max_length is not None or info.pattern is not None, where
        case msgspec.inspect.IntType():
            assert info.ge is not None, where
            assert info.le is not None or info.lt is not None, where
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            assert info.max_length is not None, where
            _check_bounded(info.item_type, where)
        case msgspec.inspect.UnionType():
            for one in info.types:
                _check_bounded(one, where)
        case msgspec.inspect.DictType():
            assert info.max_length is not None, where
            _check_bounded(info.key_type, where)

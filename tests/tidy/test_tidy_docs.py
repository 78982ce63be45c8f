"""Every command, setting, message and decision is documented."""

import re

import msgspec
import pytest

from hedgerow.serve.settings import SETTINGS
from hedgerow.wire.events import EVENT_MESSAGES
from hedgerow.wire.messages import MESSAGES, Message, kind_of
from tests.tidy.sources import ROOT
from tools import commands

DOCS = ROOT / "docs"
ALL = (*MESSAGES, *EVENT_MESSAGES)


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    # `make docs` writes it anew.
    assert (DOCS / "commands.md").read_text("utf-8") == commands.page()


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: str(settings.__name__))
def test_every_setting_is_explained(settings: type) -> None:
    page = (DOCS / "settings.md").read_text("utf-8")
    names = [field.encode_name for field in msgspec.inspect.type_info(settings).fields]  # type: ignore[attr-defined]
    # `[nats]`, or `host`, or with its table in front: `nats.host`
    missing = [
        name for name in names if not re.search(rf"`([\w.]+\.)?{name}`|`\[?{name}[.\]]", page)
    ]
    assert missing == []


@pytest.mark.parametrize("message", ALL, ids=kind_of)
def test_every_message_has_a_page_with_an_example_that_decodes(message: type[Message]) -> None:
    page = (DOCS / "messages" / f"{kind_of(message)}.md").read_text("utf-8")
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert example is not None
    assert page.index("```") == example.start()  # an example first
    decoded = msgspec.json.decode(example[1], type=message)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(decoded), type=message) == decoded
    fields = [field.encode_name for field in msgspec.structs.fields(message)]
    assert [name for name in fields if not re.search(rf"`{name}[`.]", page)] == []


def test_no_page_describes_a_message_that_is_not_there() -> None:
    pages = {path.stem for path in (DOCS / "messages").glob("*.md")} - {"index", "envelope"}
    assert pages == {kind_of(message) for message in ALL}


def test_the_index_of_decisions_lists_each() -> None:
    index = (DOCS / "decisions" / "index.md").read_text("utf-8")
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index)
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))
    assert len({name[:4] for name in listed}) == len(listed)  # no number twice

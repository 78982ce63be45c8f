"""A real NATS server and a real PostgreSQL for the tests of this room."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.io import clock
from hedgerow.io.authority import Authority
from hedgerow.io.nats_server import EmbeddedServer
from tests.io.servers import postgresql


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.load_or_create(tmp_path / "authority", "meadow", clock.now())


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server", authority) as running:
        yield running


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    # A short path that an unprivileged user can reach: socket paths end at 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        with postgresql(directory) as url:
            yield url
    finally:
        shutil.rmtree(directory)

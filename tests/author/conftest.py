"""Compiled once for all tests of this room."""

import pytest
import torch

from tests.author.modules import Compiled


@pytest.fixture(scope="session")
def compiled() -> Compiled:
    """Specs and bundles by name."""
    torch.set_num_threads(1)
    return Compiled()

"""The bundle that ships with the watch application: real, and no PyTorch needed."""

from importlib import resources

import pytest

from hedgerow.model.bundle import Bundle
from hedgerow.model.learner import Learner


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """A whole bundle."""
    data = resources.files("hedgerow.apps.watch").joinpath("watch.hedgerow").read_bytes()
    return Bundle.from_bytes(data)


@pytest.fixture(scope="session")
def learner(bundle: Bundle) -> Learner:
    """Its learner."""
    return Learner(bundle)

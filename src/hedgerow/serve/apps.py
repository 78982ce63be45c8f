"""Applications by name: each is a bundle that ships inside the package."""

from importlib import resources
from pathlib import Path

from hedgerow.core.errors import UsageError
from hedgerow.model.bundle import Bundle


def app_bundle(app: str) -> Bundle:
    """The bundle of a shipped application, or the one at a path.

    Raises:
        UsageError: no application and no file of that name.
    """
    shipped = resources.files("hedgerow.apps") / app / f"{app}.hedgerow"
    if app.isidentifier() and shipped.is_file():
        with resources.as_file(shipped) as path:
            return Bundle.load(path)
    if not Path(app).exists():
        raise UsageError(
            f"no application and no bundle called {app!r}; try 'watch' or 'vibration', or a path"
        )
    return Bundle.load(Path(app))

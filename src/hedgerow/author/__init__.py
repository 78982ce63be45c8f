"""From a PyTorch module to a model bundle. Needs the extra `author`; nothing on a device does."""

from hedgerow.author.check import TOLERANCE, Agreement, check
from hedgerow.author.export import export
from hedgerow.author.spec import Spec, load_spec
from hedgerow.author.widths import Scaler

__all__ = ["TOLERANCE", "Agreement", "Scaler", "Spec", "check", "export", "load_spec"]

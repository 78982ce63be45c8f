"""What `hedgerow doctor` looks at: this machine, the settings, the state and the model."""

from hedgerow.serve.doctor.examine import Diagnosis, examine
from hedgerow.serve.doctor.finding import Finding

__all__ = ["Diagnosis", "Finding", "examine"]

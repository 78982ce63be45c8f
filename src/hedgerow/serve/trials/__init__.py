"""The trial of new models on a device: candidates in, the model that decides out."""

from hedgerow.serve.trials.fixed import Verdict
from hedgerow.serve.trials.models import Candidate, OpenShadow, Serving, Shadow, in_process
from hedgerow.serve.trials.shell import Trials

__all__ = ["Candidate", "OpenShadow", "Serving", "Shadow", "Trials", "Verdict", "in_process"]

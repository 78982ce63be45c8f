"""The simulator on a GPU: a bundle's training graph run by PyTorch instead of ONNX Runtime.

The graph stays what ships. A small interpreter maps its operators, exactly those the compiler of
bundles emits, to PyTorch functions; another operator is refused by name. `TorchLearner` is a
`Learner` whose weights, velocities and corrections stay on the device from a pass's first step to
its last; samples go there batch by batch. Results agree with ONNX Runtime to rounding, not to the
bit, so a simulation is comparable only with others on the same kind of engine.

Needs PyTorch and onnx (extra `author`); import this package only where a device is asked for.
"""

from hedgerow.sim.torch_engine.graph import TorchStep
from hedgerow.sim.torch_engine.training import TorchDescent, TorchLearner

__all__ = ["TorchDescent", "TorchLearner", "TorchStep"]

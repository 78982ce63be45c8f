"""pfl-research: its FederatedAveraging with the PyTorch model and one simulating process."""

import numpy as np
import torch
import work
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

torch.set_num_threads(1)


class Network(nn.Module):
    """The MLP with what pfl asks of a module."""

    def __init__(self) -> None:
        super().__init__()
        first = {name: torch.from_numpy(value) for name, value in work.weights().items()}
        self.w1, self.b1, self.w2, self.b2 = (nn.Parameter(value) for value in first.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        return torch.relu(x @ self.w1 + self.b1) @ self.w2 + self.b2

    def loss(self, x: torch.Tensor, y: torch.Tensor, is_eval: bool = False) -> torch.Tensor:
        """Mean cross-entropy of a batch."""
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, is_eval: bool = True) -> dict:
        """What an evaluation would report."""
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


class Timer(TrainingProcessCallback):
    """Takes the time of each round and ends when there is enough."""

    def __init__(self, clock: work.Clock) -> None:
        self.clock = clock

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """After each round."""
        self.clock.round()
        return self.clock.enough, Metrics()


def main() -> None:
    """Rounds until there is something to report."""
    users = {}
    for number in range(work.CLIENTS):
        x, y = work.client(number)
        order = np.random.default_rng([3, number]).permutation(len(x))
        raw = [torch.from_numpy(x[order]), torch.from_numpy(y[order])]
        users[str(number)] = Dataset(raw, user_id=str(number))
    sampler = MinimizeReuseUserSampler(list(users))
    data = FederatedDataset(users.__getitem__, sampler)
    network = Network()
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    clock = work.Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=1000,
            evaluation_frequency=10**6,
            train_cohort_size=work.CLIENTS,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work.RATE, local_batch_size=work.BATCH
        ),
        callbacks=[Timer(clock)],
    )
    arrays = {name: value.detach().numpy() for name, value in network.named_parameters()}
    work.report("pfl-research", clock, arrays, "one process, one thread", "pfl", "torch", "numpy")


main()

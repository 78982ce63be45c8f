"""The plain way: eager PyTorch, one client after another, on one thread (two are slower)."""

import torch
import work
from torch import nn

torch.set_num_threads(1)


def main() -> None:
    """Rounds until there is something to report."""
    first = {name: torch.from_numpy(value) for name, value in work.weights().items()}
    model = nn.Sequential(
        nn.Linear(work.FEATURES, work.HIDDEN), nn.ReLU(), nn.Linear(work.HIDDEN, work.CLASSES)
    )
    state = {"0.weight": first["w1"].T, "0.bias": first["b1"],
             "2.weight": first["w2"].T, "2.bias": first["b2"]}  # fmt: skip
    data = [work.client(number) for number in range(work.CLIENTS)]
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in data]
    loss_of = nn.CrossEntropyLoss()
    torch.manual_seed(1)
    clock = work.Clock()
    while not clock.enough:
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for x, y in tensors:
            model.load_state_dict(state)
            optimiser = torch.optim.SGD(model.parameters(), lr=work.RATE)
            for rows in torch.randperm(len(x)).split(work.BATCH):
                optimiser.zero_grad()
                loss_of(model(x[rows]), y[rows]).backward()
                optimiser.step()
            for name, value in model.state_dict().items():
                total[name] += value
        state = {name: value / work.CLIENTS for name, value in total.items()}
        clock.round()
    final = {"w1": state["0.weight"].T, "b1": state["0.bias"],
             "w2": state["2.weight"].T, "b2": state["2.bias"]}  # fmt: skip
    arrays = {name: value.numpy() for name, value in final.items()}
    work.report("pytorch", clock, arrays, "eager loop, one thread", "torch", "numpy")


main()

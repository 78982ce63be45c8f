"""Flower: its simulation engine (Ray, one client app for each core) with the FedAvg strategy."""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
import work
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

ROUNDS = int(os.environ.get("PEERS_ROUNDS", "4"))
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's local epoch."""
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(part) for part in work.client(context.node_config["partition-id"]))
    model = message.content["arrays"].to_torch_state_dict()
    model = {name: value.requires_grad_() for name, value in model.items()}
    optimiser = torch.optim.SGD(model.values(), lr=work.RATE)
    for rows in torch.randperm(len(x)).split(work.BATCH):
        optimiser.zero_grad()
        hidden = torch.relu(x[rows] @ model["w1"] + model["b1"])
        nn.functional.cross_entropy(hidden @ model["w2"] + model["b2"], y[rows]).backward()
        optimiser.step()
    trained = {name: value.detach() for name, value in model.items()}
    content = RecordDict(
        {"arrays": ArrayRecord(trained), "metrics": MetricRecord({"num-examples": len(x)})}
    )
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    """FedAvg that takes the time of each round."""

    clock = work.Clock()

    def aggregate_train(self, server_round, replies):
        """After each round's answers came."""
        result = super().aggregate_train(server_round, replies)
        self.clock.round()
        return result


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """The rounds, and what came of them."""
    strategy = Timed(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=work.CLIENTS,
        min_available_nodes=work.CLIENTS,
    )
    first = {name: torch.from_numpy(value) for name, value in work.weights().items()}
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(first), num_rounds=ROUNDS)
    final = {name: v.numpy() for name, v in result.arrays.to_torch_state_dict().items()}
    work.report("flower", strategy.clock, final, "simulation engine on Ray, a client app a core",
                "flwr", "ray", "torch", "numpy")  # fmt: skip


run_simulation(
    server_app,
    client_app,
    num_supernodes=work.CLIENTS,
    backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
)

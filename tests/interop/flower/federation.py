"""A small real federation in Flower's simulation: seven clients fit a two-layer network. Run as a script by the tests.

    python federation.py DEFENSE HARM OUT

DEFENSE is the name of a defense of ours or ``flwr`` for Flower's own FedAvg; HARM says what the two malicious clients
do: nothing (``none``), send large weights (``large``) or NaN (``nan``), or fail (``crash``). OUT gets a JSON file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor, nn

from benchmark.interop.flower import to_flower

CLIENTS = 7
MALICIOUS = 2
ROUNDS = 3
ANSWER_SECONDS = 60

client_app = ClientApp()


class Net(nn.Sequential):
    """Regression on four numbers, with a counter of steps, as models with batch normalisation have one."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("steps", torch.tensor(0))


def rows(client: int) -> tuple[Tensor, Tensor]:
    """Return a client's training data; clients hold different numbers of rows."""
    inputs = torch.randn(24 + 8 * client, 4, generator=torch.Generator().manual_seed(client))
    return inputs, (inputs @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])).tanh()


def loaded(arrays: ArrayRecord) -> Net:
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    return net


def loss_of(arrays: ArrayRecord) -> float:
    """Return the model's loss on rows that no client holds."""
    inputs, targets = rows(100)
    with torch.no_grad():
        return float(nn.functional.mse_loss(loaded(arrays)(inputs), targets))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    client = int(context.node_config["partition-id"])
    harm = str(message.content["config"]["harm"]) if client < MALICIOUS else "none"
    if harm == "crash":
        raise RuntimeError("this client does not answer")
    net = loaded(message.content["arrays"])
    inputs, targets = rows(client)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(inputs), targets).backward()
        optimizer.step()
    state = net.state_dict()
    state["steps"] += 10
    for name, parameter in net.named_parameters():
        state[name] = parameter.detach() * {"large": -20.0, "nan": torch.nan}.get(harm, 1.0)
    metrics = MetricRecord({"num-examples": len(inputs), "partition": client})
    return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"num-examples": 1, "partition": int(context.node_config["partition-id"])})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def main(defense: str, harm: str, out: Path) -> None:
    """Run one simulation and write what came of it."""
    settings: dict[str, Any] = {"min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
    told = {"declared_malicious": MALICIOUS, "rounds": ROUNDS}
    strategy = FedAvg(**settings) if defense == "flwr" else to_flower(defense, **told, **settings)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        torch.manual_seed(0)
        losses = []
        result = strategy.start(
            grid,
            ArrayRecord(Net().state_dict()),
            ROUNDS,
            timeout=ANSWER_SECONDS,
            train_config=ConfigRecord({"harm": harm}),
            evaluate_fn=lambda number, arrays: losses.append(loss_of(arrays)),
        )
        found: dict[str, Any] = {
            "losses": losses,
            "arrays": {name: array.numpy().tolist() for name, array in result.arrays.items()},
            "metrics": {number: dict(record) for number, record in result.train_metrics_clientapp.items()},
            "evaluated": sorted(result.evaluate_metrics_clientapp),
        }
        if defense != "flwr":
            found["outcomes"] = {
                number: {"clients": each.clients, "weights": each.weights, "refused": each.refused}
                for number, each in strategy.outcomes.items()
            }
            history = getattr(strategy._defense, "_history", {})
            found["history"] = {client: total.tolist() for client, total in history.items()}
        out.write_text(json.dumps(found))

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server_app, client_app, CLIENTS, backend_config=backend)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    # A server app that failed may leave threads behind that wait for clients.
    sys.stdout.flush()
    os._exit(0)

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import optim
from torch.optim.lr_scheduler import OneCycleLR

from worker.unlearning import networks
from worker.unlearning._optimizer import SGD

TRAINING = """
import sys, torch
from worker.unlearning import finetuning, networks, training

network = networks.build("small-cnn", shape=(1, 8, 8), classes=2, width=4)
images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 2
settings = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "seed": 0}
for schedule in ("one-cycle", "step", "constant"):
    training.train(network, images, labels, **settings, schedule=schedule, augment=True)
finetuning.finetune(network, [finetuning.Part(images, labels, True)], **settings, schedule="linear", augment=True)
print(*(name for name in ("torch._dynamo", "scipy.stats", "sklearn") if name in sys.modules))
"""


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 5e-4}, {"momentum": 0.5, "nesterov": True}]
)
def test_steps_are_those_of_torchs_sgd_to_the_last_bit(options):
    images, labels = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10

    def trained(kind):
        torch.manual_seed(0)
        network = networks.build("small-cnn", shape=(1, 8, 8), classes=10, width=4)
        optimizer = kind(network.parameters(), 0.1, **options)
        scheduler = OneCycleLR(optimizer, 0.1, total_steps=6)
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            scheduler.step()
        return network.state_dict()

    ours, torchs = trained(SGD), trained(optim.SGD)
    assert all(torch.equal(ours[name], torchs[name]) for name in torchs)


def test_a_step_records_no_gradient_and_leaves_recording_as_it_was():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], 0.5)
    weight.sum().backward()
    optimizer.step()
    assert torch.is_grad_enabled()
    assert weight.is_leaf
    assert weight.tolist() == [0.5, 0.5]
    optimizer.zero_grad()
    assert weight.grad is None


def test_training_loads_neither_torchs_compiler_nor_what_takes_a_second_to_import():
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

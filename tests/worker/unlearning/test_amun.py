import pytest
import torch
from torch import nn

from worker.unlearning import adversarial, amun, finetuning, networks, training

FINETUNING = {
    "form": "retain+forget+adversarial",
    "learning_rate": 0.01,
    "schedule": "constant",
    "epochs": 1,
    "batch_size": 8,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "augment": False,
    "seed": 0,
}
ATTACK = {
    "method": "boundary",
    "batch_size": 256,
    "rival_classes": 2,
    "steps": 50,
    "bisections": 8,
    "eps_start": 0.04,
    "doublings": 12,
}


def images(count, seed, size=8):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


def examples(inputs, labels, found=None):
    found = torch.ones(len(inputs), dtype=torch.bool) if found is None else found
    return adversarial.Adversarial(inputs, labels, torch.zeros(len(inputs)), found, passes=0)


def case(forgotten=6, retained=9, size=8):
    forget = images(forgotten, 1, size), torch.arange(forgotten) % 3
    retain = images(retained, 2, size), torch.arange(retained) % 3
    return forget, retain, examples(images(forgotten, 3, size), (forget[1] + 1) % 3)


def small_network(size=8):
    torch.manual_seed(0)
    return networks.build("small-cnn", shape=(1, size, size), classes=3, width=4)


class Recorder(nn.Module):
    """A linear network that keeps the images it was shown."""

    def __init__(self, size=8):
        super().__init__()
        self.head = nn.Linear(size * size, 3, bias=False)
        self.seen: list[torch.Tensor] = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, batch):
        self.seen.append(batch.detach().clone())
        return self.head(batch.flatten(1))


def is_among(batch, several):
    return (batch[:, None] == several[None]).flatten(2).all(2).any(1)


@pytest.mark.parametrize("form", amun.FORMS)
@pytest.mark.parametrize("weighted", [True, False])
def test_one_step_is_the_gradient_of_the_weighted_loss_over_the_sets_of_the_form(form, weighted):
    forget, retain, found = case(size=2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    weights = torch.linspace(0, 2, 6) if weighted else None
    plain = {"form": form, "batch_size": 99, "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.5}
    result = amun.unlearn(network, forget, retain, adversarial=found, weights=weights, **FINETUNING | plain)
    sets = {"retain": retain, "forget": forget, "adversarial": (found.inputs, found.labels)}
    inputs, labels = (torch.cat([sets[name][part] for name in form.split("+")]) for part in (0, 1))
    factors = torch.ones(len(inputs))
    if weights is not None:
        factors[-6:] = weights  # the adversarial set is named last in every form
    flat, weight = inputs.flatten(1), network[1].weight.detach()
    error = (flat @ weight.T).softmax(1) - nn.functional.one_hot(labels, 3)
    gradient = (factors[:, None] * error).T @ flat / len(inputs)
    assert torch.allclose(result[1].weight, weight - 0.5 * gradient, atol=1e-6)


def test_the_given_network_is_left_as_it_was_and_the_new_one_is_in_evaluation_mode():
    forget, retain, found = case()
    network = small_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = amun.unlearn(network, forget, retain, adversarial=found, **FINETUNING)
    assert network.training
    assert not result.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not torch.equal(result[0].weight, network[0].weight)


def test_crops_and_flips_never_touch_the_adversarial_set():
    forget, retain, found = case()
    network = Recorder()
    amun.unlearn(network, forget, retain, adversarial=found, **FINETUNING | {"augment": True, "epochs": 5})
    seen = torch.cat(network.seen)
    assert is_among(seen, found.inputs).sum() == 5 * 6
    # One in 18 crops of a small image is the image itself, so most natural images were moved.
    assert is_among(seen, torch.cat([forget[0], retain[0]])).sum() < 25


def test_every_image_is_seen_once_in_an_epoch():
    forget, retain, found = case()
    network = Recorder()
    amun.unlearn(network, forget, retain, adversarial=found, **FINETUNING)
    everything = torch.cat([forget[0], retain[0], found.inputs])
    assert len(torch.cat(network.seen)) == len(everything)
    assert is_among(everything, torch.cat(network.seen)).all()


def test_examples_that_were_not_found_are_left_out():
    forget, retain, _ = case()
    found = torch.tensor([True, False, True, True, False, True])
    network = Recorder()
    some = examples(images(6, 3), forget[1], found)
    amun.unlearn(network, forget, retain, adversarial=some, **FINETUNING | {"form": "adversarial"})
    assert is_among(some.inputs, torch.cat(network.seen)).tolist() == found.tolist()


def test_weights_follow_the_examples_that_were_found():
    forget, _, _ = case(size=2)
    found = torch.tensor([False, True, False, False, False, False])
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    some = examples(images(6, 3, 2), forget[1], found)
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    plain = {"form": "adversarial", "weight_decay": 0.0, "epochs": 3}
    result = amun.unlearn(network, forget, adversarial=some, weights=weights, **FINETUNING | plain)
    assert torch.equal(result[1].weight, network[1].weight)


def test_the_same_seed_gives_the_same_network():
    forget, retain, found = case()
    first, again, other = (
        amun.unlearn(small_network(), forget, retain, adversarial=found, **FINETUNING | {"seed": seed, "augment": True})
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first.state_dict()[name], value) for name, value in again.state_dict().items())
    assert not torch.equal(first[0].weight, other[0].weight)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1]),
        ("tenth-each-fifth-epoch", [1, 1, 1, 1, 1, 0.1, 0.1]),
        ("tenth-each-epoch", [1, 0.1, 0.01]),
        ("linear", [1, 3 / 4, 2 / 4, 1 / 4]),
    ],
)
def test_the_learning_rate_follows_the_schedule(schedule, rates):
    forget, _, _ = case(forgotten=1, size=2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    biases = [torch.zeros(3)]
    plain = {"form": "adversarial", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 1e-3}
    amun.unlearn(
        network,
        forget,
        adversarial=examples(torch.zeros(1, 1, 2, 2), torch.tensor([1])),
        **FINETUNING | plain | {"schedule": schedule, "epochs": len(rates)},
        on_epoch=lambda epoch, loss, network: biases.append(network[1].bias.detach().clone()),
    )
    # At zero logits the gradient of the example's own bias is 1/3 - 1.
    moved = torch.stack(biases).diff(dim=0)[:, 1] / (2 / 3)
    assert torch.allclose(moved, 1e-3 * torch.tensor(rates), rtol=2e-2)


def test_a_last_batch_of_one_image_does_not_reach_batch_norm():
    forget, retain, found = case(forgotten=4, retained=9)
    torch.manual_seed(0)
    network = networks.build("resnet18", shape=(1, 8, 8), classes=3, width=1)
    result = amun.unlearn(network, forget, retain, adversarial=found, **FINETUNING)
    assert all(torch.isfinite(value).all() for value in result.state_dict().values())


def test_digits_that_were_forgotten_lose_their_lead_and_the_others_keep_theirs():
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs, labels = torch.tensor(digits.images[:300], dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    labels = labels[:300]
    recipe = {"epochs": 15, "batch_size": 32, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0}
    torch.manual_seed(0)
    network = networks.build("small-cnn", shape=(1, 8, 8), classes=10, width=8)
    training.train(network, inputs, labels, **recipe, schedule="one-cycle", augment=False, seed=0)
    forget, retain = (inputs[:50], labels[:50]), (inputs[50:], labels[50:])
    found = adversarial.nearest(network, *forget, **ATTACK)
    options = {"form": "retain+adversarial", "learning_rate": 0.02, "epochs": 6, "batch_size": 32}
    result = amun.unlearn(network, forget, retain, adversarial=found, **FINETUNING | options)

    def loss(of):
        return nn.functional.cross_entropy(training.infer(of, forget[0]), forget[1]).item()

    assert loss(result) > 3 * loss(network)
    assert training.accuracy(result, *retain) > 0.99


def test_a_share_of_the_retained_set_is_drawn_anew_in_each_epoch():
    forget, retain, found = case(forgotten=4, retained=60)
    network = Recorder()
    options = {"form": "retain+adversarial", "epochs": 3, "batch_size": 64}
    amun.unlearn(network, forget, retain, adversarial=found, retain_share=0.5, **FINETUNING | options)
    epochs = [is_among(retain[0], batch) for batch in network.seen]
    assert [epoch.sum().item() for epoch in epochs] == [30, 30, 30]
    assert not torch.equal(epochs[0], epochs[1])
    assert all(is_among(found.inputs, batch).all() for batch in network.seen)


def test_amun_with_salun_moves_only_what_is_salient_for_the_forget_set():
    forget, retain, found = case()
    network = small_network()
    mask = finetuning.saliency(network, forget, share=0.3, batch_size=8)
    result = amun.unlearn(network, forget, retain, adversarial=found, saliency_share=0.3, **FINETUNING | {"epochs": 3})
    moved = dict(result.named_parameters())
    for name, before in network.named_parameters():
        assert torch.equal(moved[name][~mask[name]], before[~mask[name]])
    assert any((moved[name] != before).any() for name, before in network.named_parameters())


def test_what_cannot_be_done_is_refused():
    forget, retain, found = case()
    network = small_network()
    with pytest.raises(ValueError, match="choose one of"):
        amun.unlearn(network, forget, retain, adversarial=found, **FINETUNING | {"form": "retain"})
    with pytest.raises(ValueError, match="needs the retained set"):
        amun.unlearn(network, forget, adversarial=found, **FINETUNING)
    with pytest.raises(ValueError, match="forget set is empty"):
        amun.unlearn(network, (forget[0][:0], forget[1][:0]), retain, adversarial=found, **FINETUNING)
    with pytest.raises(ValueError, match="6 adversarial examples for 5"):
        amun.unlearn(network, (forget[0][:5], forget[1][:5]), retain, adversarial=found, **FINETUNING)
    with pytest.raises(ValueError, match="weights"):
        amun.unlearn(network, forget, retain, adversarial=found, weights=-torch.ones(6), **FINETUNING)
    with pytest.raises(ValueError, match="share"):
        amun.unlearn(network, forget, retain, adversarial=found, retain_share=0.0, **FINETUNING)
    with pytest.raises(ValueError, match="unknown schedule"):
        amun.unlearn(network, forget, retain, adversarial=found, **FINETUNING | {"schedule": "cosine"})
    none = examples(forget[0], forget[1], torch.zeros(6, dtype=torch.bool))
    with pytest.raises(ValueError, match="no images"):
        amun.unlearn(network, forget, adversarial=none, **FINETUNING | {"form": "adversarial"})


@pytest.mark.fault(18)
def test_a_loss_that_is_not_a_number_stops_unlearning():
    forget, retain, found = case()
    found.inputs[0] = float("nan")
    with pytest.raises(training.Diverged):
        amun.unlearn(small_network(), forget, retain, adversarial=found, **FINETUNING)

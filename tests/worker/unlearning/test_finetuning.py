import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from worker.unlearning import networks
from worker.unlearning.finetuning import Part, finetune, saliency

OPTIONS = {
    "learning_rate": 0.1,
    "schedule": "constant",
    "epochs": 2,
    "batch_size": 8,
    "momentum": 0.9,
    "weight_decay": 5e-2,
    "augment": False,
    "seed": 0,
}
ONE_STEP = {"epochs": 1, "batch_size": 99, "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.5}


def case(count=12, seed=0):
    return torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 3


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


class Recorder(nn.Module):
    """A linear network that keeps the images it was shown."""

    def __init__(self):
        super().__init__()
        self.head = linear()
        self.seen: list[torch.Tensor] = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, batch):
        self.seen.append(batch.detach().clone())
        return self.head(batch)


def slope(network, inputs, labels):
    loss = cross_entropy(network(inputs), labels, reduction="sum")
    return dict(
        zip(
            (name for name, _ in network.named_parameters()),
            torch.autograd.grad(loss, list(network.parameters())),
            strict=True,
        )
    )


def test_weights_outside_the_mask_keep_their_value_exactly_whatever_momentum_and_decay_do():
    network, (inputs, labels) = linear(), case()
    mask = {name: torch.rand_like(value) < 0.5 for name, value in network.named_parameters()}
    moved = dict(finetune(network, [Part(inputs, labels, movable=False)], **OPTIONS, mask=mask).named_parameters())
    for name, before in network.named_parameters():
        assert torch.equal(moved[name][~mask[name]], before[~mask[name]])
        assert (moved[name][mask[name]] != before[mask[name]]).all()


def test_ascending_is_descending_with_the_opposite_sign():
    network, (inputs, labels) = linear(), case()
    for sign, ascend in ((1, True), (-1, False)):
        result = finetune(network, [Part(inputs, labels, movable=False)], **OPTIONS | ONE_STEP, ascend=ascend)
        expected = network[1].weight + sign * 0.5 * slope(network, inputs, labels)["1.weight"] / len(inputs)
        assert torch.allclose(result[1].weight, expected, atol=1e-6)


def test_the_penalty_is_added_to_each_batch_and_knows_its_epoch():
    epochs = []

    def penalty(network, epoch):
        epochs.append(epoch)
        return 0.3 * network[1].bias.sum()

    network, (inputs, labels) = linear(), case()
    with_penalty = finetune(network, [Part(inputs, labels, movable=False)], **OPTIONS | ONE_STEP, penalty=penalty)
    without = finetune(network, [Part(inputs, labels, movable=False)], **OPTIONS | ONE_STEP)
    assert torch.allclose(with_penalty[1].bias, without[1].bias - 0.5 * 0.3, atol=1e-6)
    assert epochs == [1]


def test_a_share_of_a_part_is_another_draw_in_each_epoch():
    network, whole, drawn = Recorder(), case(6, seed=1), case(40, seed=2)
    finetune(network, [Part(*whole, movable=False), Part(*drawn, movable=False, share=0.25)], **OPTIONS)
    seen = torch.cat(network.seen).flatten(1)
    assert len(seen) == 2 * (6 + 10)
    epochs = [{tuple(image.tolist()) for image in epoch} for epoch in seen.split(16)]
    everything = {tuple(image.tolist()) for image in torch.cat([whole[0], drawn[0]]).flatten(1)}
    assert all(len(epoch) == 16 and epoch < everything for epoch in epochs)
    assert all(tuple(image.tolist()) in epoch for image in whole[0].flatten(1) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_mean_loss_told_is_that_of_the_images_that_were_seen():
    told, (inputs, labels) = [], case()
    still = OPTIONS | {"learning_rate": 1e-9, "epochs": 1}
    network = linear()
    finetune(network, [Part(inputs, labels, movable=False)], **still, on_epoch=lambda *seen: told.append(seen[:2]))
    assert told == [(1, pytest.approx(cross_entropy(network(inputs), labels).item(), rel=1e-5))]


def test_saliency_marks_the_largest_gradients_of_the_whole_forget_set():
    network, forget = linear(), case(10)
    mask = saliency(network, forget, share=0.4, batch_size=3)
    size = torch.cat([value.abs().flatten() for value in slope(network, *forget).values()])
    marked = torch.cat([value.flatten() for value in mask.values()])
    assert marked.sum() == round(0.4 * len(size))
    assert size[marked].min() > size[~marked].max()


def test_saliency_leaves_gradients_mode_and_statistics_of_the_network_alone():
    network = networks.build("small-cnn", shape=(1, 8, 8), classes=3, width=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    saliency(network, (torch.rand(5, 1, 8, 8), torch.arange(5) % 3), share=1.0, batch_size=2)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_saliency_of_no_share_or_no_images_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        saliency(linear(), case(), share=share, batch_size=8)
    with pytest.raises(ValueError, match="forget samples"):
        saliency(linear(), case(0), share=0.5, batch_size=8)

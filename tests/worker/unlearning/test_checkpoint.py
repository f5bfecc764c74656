import pytest
import torch
from safetensors.torch import save

from worker.unlearning import checkpoint, networks


def build(width=4):
    return networks.build("small-cnn", shape=(1, 8, 8), classes=3, width=width)


def test_a_network_comes_back_with_every_parameter_and_buffer():
    network = build().train()
    network(torch.rand(8, 1, 8, 8))  # moves the running means
    restored = checkpoint.restore(build(), checkpoint.dump(network))
    assert not restored.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name])


def test_the_same_parameters_give_the_same_bytes():
    network = build()
    assert checkpoint.dump(network) == checkpoint.dump(checkpoint.restore(build(), checkpoint.dump(network)))


def changed(change):
    tensors = {name: tensor.contiguous() for name, tensor in build().state_dict().items()}
    change(tensors)
    return save(tensors)


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a safetensors"),
        (b"\x80\x04pickle", "not a safetensors"),
        (checkpoint.dump(build())[:-10], "not a safetensors"),
        (checkpoint.dump(build(width=5)), "instead of"),
        (changed(lambda tensors: tensors.pop("0.weight")), "another network"),
        (changed(lambda tensors: tensors.update(extra=torch.zeros(1))), "extra"),
        (changed(lambda tensors: tensors.update({"0.weight": tensors["0.weight"].double()})), "float64"),
        (changed(lambda tensors: tensors.update({"0.weight": tensors["0.weight"] * torch.nan})), "not finite"),
    ],
)
def test_what_is_not_this_network_is_refused_with_the_reason(content, reason):
    with pytest.raises(checkpoint.InvalidCheckpoint, match=reason):
        checkpoint.restore(build(), content)

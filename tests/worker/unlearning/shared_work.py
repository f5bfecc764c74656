"""What ranks compute together, to be compared with the same computed alone; as a program, one of the ranks.

Images are random and labels are a linear function of them, so that there is something to learn in a second.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from worker.unlearning import adversarial, amun, baselines, distributed, finetuning, networks, references, training

RECIPE = {"batch_size": 16, "momentum": 0.9, "weight_decay": 5e-4}
ATTACK = {
    "batch_size": 8,
    "rival_classes": 2,
    "steps": 20,
    "bisections": 6,
    "eps_start": 0.04,
    "doublings": 8,
}
TUNING = {"learning_rate": 0.01, "schedule": "linear", "epochs": 2, "seed": 4, **RECIPE}


def data(count):
    generator = torch.Generator().manual_seed(7)
    images = training.laid_out(torch.rand(count, 3, 8, 8, generator=generator))
    directions = torch.randn(3 * 64, 4, generator=generator)
    return images, (images.flatten(1) @ directions).argmax(1)


def build():
    return networks.build("small-cnn", shape=(3, 8, 8), classes=4, width=4)


def weights(network):
    return torch.cat([tensor.detach().double().flatten() for tensor in network.state_dict().values()])


def trained(count=60, **changes):
    """One epoch on ``count`` images, the last batch not as large as the others."""
    options = {"epochs": 1, "learning_rate": 0.1, "schedule": "constant", "augment": False, "seed": 3, **RECIPE}
    losses = []
    network = baselines.retrain(
        build, *data(count), **options | changes, on_epoch=lambda epoch, loss, network: losses.append(loss)
    )
    return torch.cat([weights(network), torch.tensor(losses, dtype=torch.float64)])


def gradients():
    """Of a weighted mean loss over 11 images, of which ranks cannot have equally many."""
    torch.manual_seed(1)
    network, (images, labels), factors = build(), data(11), torch.linspace(0, 3, 11)
    share = distributed.share(11)
    with distributed.together(network.train()) as shared:
        distributed.normalize_over_ranks(network, share)
        losses = torch.nn.functional.cross_entropy(shared(images[share.part]), labels[share.part], reduction="none")
        ((losses * factors[share.part]).mean() * share.weight).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def tuned(**changes):
    """AMUN's fine-tuning, with weights, augmentation of one part, a draw and a saliency mask."""
    torch.manual_seed(2)
    network, (images, labels) = build().eval(), data(50)
    forget, retain = (images[:11], labels[:11]), (images[11:], labels[11:])
    examples = adversarial.nearest(network, *forget, method="boundary", **ATTACK)
    options = {"form": "retain+adversarial", "augment": True, "retain_share": 0.7, "saliency_share": 0.5, **TUNING}
    return weights(
        amun.unlearn(
            network, forget, retain, adversarial=examples, weights=torch.linspace(0, 2, 11), **options | changes
        )
    )


def searched(method, count=21):
    torch.manual_seed(2)
    network, (images, labels) = build().eval(), data(count)
    found = adversarial.nearest(network, images, labels, method=method, **ATTACK)
    return torch.cat([found.inputs.flatten(), found.labels.float(), found.distances, found.found.float()])


def penalized():
    torch.manual_seed(2)
    return weights(baselines.l1_sparse(build().eval(), data(40), strength=1e-3, augment=False, **TUNING))


def referenced():
    images, labels = data(40)
    members = references.assign(40, 4, seed=1)
    options = {"epochs": 1, "learning_rate": 0.1, "schedule": "one-cycle", "augment": True, "seed": 3, **RECIPE}
    phi = np.zeros((4, 40))
    for reference in references.train(build, images, labels, members, **options, together=2):
        phi[reference.index] = reference.phi
    return distributed.summed(torch.from_numpy(phi))


CASES = {
    "gradients": gradients,
    "an epoch": trained,
    "an epoch whose last batch is shared unevenly": lambda: trained(57),
    "an epoch whose last batch is too small to share": lambda: trained(51),
    "fewer images than can be shared": lambda: trained(3),
    "one image": lambda: trained(1),
    "batches in halves": lambda: trained(55, epochs=2, augment=True, accumulate=2),
    "a schedule and augmentation": lambda: trained(epochs=3, schedule="one-cycle", augment=True),
    "fine-tuning": tuned,
    "fine-tuning on everything": lambda: tuned(form="retain+forget+adversarial", retain_share=1.0),
    "fine-tuning in halves": lambda: tuned(accumulate=2),
    "a penalty": penalized,
    "boundary": lambda: searched("boundary"),
    "pgd": lambda: searched("pgd"),
    "a single search": lambda: searched("boundary", 1),
    "inference": lambda: training.infer_together(build_seeded(), data(33)[0]),
    "saliency": lambda: torch.cat(
        [
            mask.double().flatten()
            for mask in finetuning.saliency(build_seeded(), data(21), share=0.3, batch_size=8).values()
        ]
    ),
    "references": referenced,
}


def build_seeded():
    torch.manual_seed(2)
    return build()


def main(folder, rank, count):
    """Writes RANK.pt; the ranks meet in a file and talk on loopback."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(Path(folder) / "store"), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    found = {name: case() for name, case in CASES.items()}
    found["values"] = distributed.gathered_values([None, 0.1] if rank else [])
    found["averaged"] = distributed.averaged(torch.tensor(float("nan") if rank else 1.0)).item()
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

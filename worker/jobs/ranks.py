"""The processes of one job that torchrun started: how they meet, and how one that fails ends them all.

Rank 0 alone writes files and prints. What stops one rank leaves the others waiting in a collective, which nothing but
their end gets them out of. So each looks every moment for a word from the others, in the store where they met.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from worker import plan as agreed
from worker.jobs.device import choose_device, hardware_of

HALVED = "--halved"
LOOK_SECONDS = 0.25
MEET_SECONDS = 120.0  # until all ranks are there
GRACE_SECONDS = (
    2.0  # for torchrun to end the job where another rank has died, which here looks like an error of its own
)
WAIT_SECONDS = 60.0  # for rank 0 to write what became of the job
COLLECTIVE_LIMIT = timedelta(days=30)  # whole reference models are waited for; the supervisor limits the job's time
FAILURE, AGAIN = "failure", "again"


@dataclass
class Ranks:
    """This process among the ranks of its job; alone where torchrun did not start it."""

    number: int = 0
    count: int = 1
    local_count: int = 1  # on this machine
    devices: list[str] = field(default_factory=list)  # by rank, once they have met
    store: Store | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """As torchrun says it."""
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        number, count, local_count = (int(environment.get(name, default)) for name, default in names.items())
        return cls(number, count, local_count)

    @property
    def first(self) -> bool:
        return self.number == 0

    @contextmanager
    def joined(self, attempt: str, on_failure: Callable[[agreed.Failure | None], None]) -> Iterator[None]:
        """The process group of all ranks. Raises Failed(no_gpu).

        Args:
            attempt: another one for each time that these processes meet.
            on_failure: called in a thread of rank 0 with another rank's failure, or None before all begin again.
        """
        if self.count == 1:
            yield
            return
        if self.local_count == self.count:
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        met, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=MEET_SECONDS))))
        self.store = PrefixStore(attempt, met)
        done = threading.Event()
        watch = PrefixStore(attempt, met.clone())
        threading.Thread(target=self._watch, args=(watch, os.getppid(), done, on_failure), daemon=True).start()
        device = choose_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Dropout is drawn from the global generator: the ranks' images shall not all lose the same features.
        torch.manual_seed(torch.initial_seed() + self.number)
        self.store.set(f"device/{self.number}", f"{device}: {hardware_of(device)}")
        self.devices = [self.store.get(f"device/{number}").decode() for number in range(self.count)]
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", self.store),
            rank=self.number,
            world_size=self.count,
            timeout=COLLECTIVE_LIMIT,
            device_id=device if device.type == "cuda" else None,
        )
        yield
        dist.barrier()
        done.set()
        dist.destroy_process_group()

    def begin_again(self) -> NoReturn:
        """All ranks start anew with half the batches: their memory is then as free as it can be."""
        if self.store is not None:
            self.store.set(AGAIN, "")
        _start_anew()

    def hand_over(self, failure: agreed.Failure) -> NoReturn:
        """Leave it to rank 0 to say why the job failed; torchrun ends this process when that has ended."""
        if self.store is not None:
            told = dataclasses.replace(failure, detail=f"rank {self.number}: {failure.detail}")
            self.store.compare_set(FAILURE, "", json.dumps(dataclasses.asdict(told)))
        time.sleep(WAIT_SECONDS)
        os._exit(1)

    def _watch(
        self, store: Store, parent: int, done: threading.Event, on_failure: Callable[[agreed.Failure | None], None]
    ) -> None:
        """Until the job is done; ends this process with its parent, which holds the store."""
        while not done.wait(LOOK_SECONDS):
            try:
                failed, again = store.check([FAILURE]), store.check([AGAIN])
            except RuntimeError:
                failed = again = False
                parent = -1
            if os.getppid() != parent and not done.is_set():
                os._exit(1)
            if failed and self.first:
                on_failure(agreed.Failure(**json.loads(store.get(FAILURE))))
            if again:
                if self.first:
                    on_failure(None)
                _start_anew()


def _start_anew() -> NoReturn:
    os.execv(sys.executable, [*sys.orig_argv, HALVED])  # noqa: S606 - this very command

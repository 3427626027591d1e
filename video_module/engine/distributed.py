"""Run as several processes under torchrun, or as a single process without torchrun."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from video_module.devices import own_device
from video_module.engine.device import choose_device
from video_module.machine import started_by_torchrun


@dataclass(frozen=True, kw_only=True)
class Group:
    """The process group, as this process sees it."""

    rank: int = 0
    world_size: int = 1
    num_machines: int = 1
    device: str
    """The device that this process should use, in the notation of --device."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def launcher(self) -> str:
        """The command that starts a group of this size, for the record; on several machines, the same on each."""
        if self.world_size == 1:
            return "python"
        machines = f"--nnodes {self.num_machines} " if self.num_machines > 1 else ""
        return f"torchrun {machines}--nproc_per_node {-(-self.world_size // self.num_machines)}"

    def __str__(self) -> str:
        return "one process" if self.world_size == 1 else f"{self.world_size} processes"

    def shard(self, items: Sequence[Any]) -> list[Any]:
        """Return this process's share of the items: every world_size-th one, starting at its rank."""
        return list(items[self.rank :: self.world_size])

    def gather(self, shard: Sequence[Any]) -> list[Any] | None:
        """Undo shard(): return all items in their original order in the first process and None in the others."""
        if self.world_size == 1:
            return list(shard)
        shards = [None] * self.world_size if self.is_first else None
        dist.gather_object(list(shard), shards)
        if shards is None:
            return None
        items: list[Any] = [None] * sum(map(len, shards))
        for rank, received in enumerate(shards):
            items[rank :: self.world_size] = received
        return items

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over the processes."""
        if self.world_size == 1:
            return list(values)
        # Use gloo on the CPU, because a tensor on the GPU would wait for all the work queued there.
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, items: list[Any]) -> list[Any]:
        """Return the items of all processes, in every process."""
        if self.world_size == 1:
            return items
        parts: list[list[Any]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """Call `make` in the first process only, and return its result in every process."""
        if self.world_size == 1:
            return make()
        values = [make() if self.is_first else None]
        dist.broadcast_object_list(values)
        return values[0]


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """Join the processes started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK.

    The processes communicate through gloo, and through NCCL if CUDA is used. On CUDA each process uses the GPU of its
    LOCAL_RANK. If one process fails, only that one prints its error, and the job ends even if the others are waiting.
    """
    if not started_by_torchrun():
        yield Group(device=device)
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    try:
        device = own_device(device)
        uses_cuda = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
        if uses_cuda:
            choose_device(device)  # NCCL takes the current GPU
        # On Windows, torch supports CUDA but not NCCL.
        backend = "cpu:gloo,cuda:nccl" if uses_cuda and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
        # torchrun runs one agent per machine, and GROUP_WORLD_SIZE is the number of agents.
        num_machines = int(os.environ["GROUP_WORLD_SIZE"])
        assert 0 <= rank < world_size and num_machines >= 1
        yield Group(rank=rank, world_size=world_size, num_machines=num_machines, device=device)
    except Exception:
        if store.add("num_failed", 1) > 1:
            # Another process failed first, and this one hit the same error or lost its connection to it. torchrun ends
            # all processes as soon as one exits, so give the first one time to print its error.
            time.sleep(2)
            sys.exit(1)
        if rank > 0:
            print(file=sys.stderr)  # end the line that holds the progress bar of the first process
        # Skip destroy_process_group(), which could wait for the others; they end the job after two seconds.
        raise
    # Wait for all processes, so that none exits while another still reads from it. Every group has a CPU backend.
    dist.all_reduce(torch.zeros(1))
    dist.destroy_process_group()

"""Run as several processes under torchrun, or as a single process without it."""

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
    """This process and its place in the group."""

    rank: int = 0
    world_size: int = 1
    num_machines: int = 1
    device: str
    """What this process should compute on, as --device takes it."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def launcher(self) -> str:
        """How such a group is started, for the record; on several machines, the same line on each."""
        if self.world_size == 1:
            return "python"
        machines = f"--nnodes {self.num_machines} " if self.num_machines > 1 else ""
        return f"torchrun {machines}--nproc_per_node {-(-self.world_size // self.num_machines)}"

    def __str__(self) -> str:
        return "one process" if self.world_size == 1 else f"{self.world_size} processes"

    def shard(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of the items, dealt out one by one."""
        return list(items[self.rank :: self.world_size])

    def gather(self, shard: Sequence[Any]) -> list[Any] | None:
        """Undo shard(): all items in their order in the first process, None in the others."""
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
        """Each value's sum over the processes."""
        if self.world_size == 1:
            return list(values)
        # On the CPU, through gloo: a tensor on the GPU would have to wait for all the work queued there.
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in each of them."""
        if self.world_size == 1:
            return items
        parts: list[list[Any]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the first process; the others do not call it."""
        if self.world_size == 1:
            return make()
        values = [make() if self.is_first else None]
        dist.broadcast_object_list(values)
        return values[0]


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """The processes that torchrun started (it sets RANK, WORLD_SIZE, LOCAL_RANK), on gloo, and NCCL where CUDA is used.

    On CUDA each takes the GPU of its LOCAL_RANK. When one fails, it alone prints why and the job ends, whatever the
    others were waiting for.
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
        # Windows has CUDA without NCCL.
        backend = "cpu:gloo,cuda:nccl" if uses_cuda and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
        # torchrun runs one agent on each machine, and its groups are the agents'.
        num_machines = int(os.environ["GROUP_WORLD_SIZE"])
        assert 0 <= rank < world_size and num_machines >= 1
        yield Group(rank=rank, world_size=world_size, num_machines=num_machines, device=device)
    except Exception:
        if store.add("num_failed", 1) > 1:
            # Another process failed first, and this one made the same mistake or lost its connection to it. torchrun
            # ends all processes at the first exit, so leave the first one the time to print its error.
            time.sleep(2)
            sys.exit(1)
        if rank > 0:
            print(file=sys.stderr)  # the first process's bar stands on this line
        # Without destroy_process_group(), which could wait for the others; they end the job after two seconds.
        raise
    # No process leaves while another still reads from it. On the CPU, where every group has a backend.
    dist.all_reduce(torch.zeros(1))
    dist.destroy_process_group()

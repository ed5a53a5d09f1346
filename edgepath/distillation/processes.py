"""One process, or several that `torchrun` started: who this one is, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..machine.progress import forget_peak, peak_bytes


@dataclass(frozen=True)
class Processes:
    """This process's number, how many there are, and the device it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the group that torchrun's environment describes, or be alone; NCCL between GPUs, gloo between CPUs."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, torch.device(device))
        return
    here = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, here)
    finally:
        dist.destroy_process_group()


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes; `value` itself where there is one."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


def from_first(module: torch.nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    if dist.is_available() and dist.is_initialized():
        for value in (*module.parameters(), *module.buffers()):
            dist.broadcast(value.data, 0)


def wait_for_all() -> None:
    """Return when every process is here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def most_memory(device: torch.device) -> int:
    """Return the most bytes so far: of a GPU what PyTorch took, on a CPU that of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()


def forget_most_memory(device: torch.device) -> None:
    """Let `most_memory` begin anew; on a CPU of Linux alone (elsewhere the most so far stays)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()

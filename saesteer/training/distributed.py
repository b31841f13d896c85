"""The processes of one run, as torchrun starts them; a run of one process is a world of one.

The trainer is written for a world and never asks how large it is: in a world of one every method
here returns what it was given. Sums go round a ring in a fixed order, so they are the same bits on
every process and in every run. Numbers and JSON travel over gloo, tensors over what their device
has (gloo or NCCL).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch import distributed as dist

from saesteer.errors import ConfigError, PeerError

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others: one of them may be filling a cache, and one that ends
is noticed at once, by its connection."""
_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for every process, beside WORLD_SIZE."""


@dataclass(frozen=True)
class World:
    """One process among `size`, which all call the same methods in the same order.

    Attributes:
        rank: from 0, which alone logs and writes what is one for all.
        device: where this process computes; None leaves it to `load_model`.

    Raises:
        PeerError: from every method that waits for the others, if one of them has ended.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.rank == 0

    def share(self, n: int, name: str) -> int:
        """This process's part of a number that must divide evenly.

        Raises:
            ConfigError: it does not.
        """
        if n % self.size:
            raise ConfigError(
                f"{name} is {n}, which {self.size} processes can't share evenly; "
                f"{n - n % self.size or self.size} would do."
            )
        return n // self.size

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.size == 1:
            return
        with _waiting():
            for tensor in tensors:
                dist.all_reduce(tensor)
        for tensor in tensors:
            tensor.div_(self.size)

    def rows(self, rows: Shaped[Tensor, "n width"]) -> Shaped[Tensor, "all width"]:
        """The rows of all processes, in the order of ranks; each must give equally many."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        with _waiting():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def most(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number])
        with _waiting():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def wait(self) -> None:
        """Return once every process is here."""
        self.most(0)

    def gather(self, value: Any) -> list[Any]:
        """What every process gives, in the order of ranks; it must fit JSON."""
        if self.size == 1:
            return [value]
        text = json.dumps(value).encode()
        longest = self.most(len(text))
        padded = torch.frombuffer(bytearray(text.ljust(longest)), dtype=torch.uint8)
        return [json.loads(bytes(row.tolist())) for row in self.rows(padded[None])]


ALONE = World()
"""The world of a run of one process."""


@contextmanager
def join_world(device: str | None) -> Iterator[World]:
    """The world that torchrun describes to this process; a world of one without torchrun.

    On CUDA, each process takes the GPU of its local rank.

    Raises:
        ConfigError: `device` names one GPU, or there are fewer of them than processes.
        PeerError: the other processes can't be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=device)
        return
    if missing := [name for name in _TORCHRUN if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is {size}, but {missing[0]} is not set; start by torchrun.")
    world = World(int(os.environ["RANK"]), size, _local_device(device))
    # its functions have the group that is there at their import as a default, and never let it go
    importlib.import_module("torch.distributed.nn")
    with _waiting():
        if world.device == "cpu":
            dist.init_process_group("gloo", timeout=_PATIENCE)
        else:
            torch.cuda.set_device(world.device)
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _local_device(device: str | None) -> str:
    """The device of this process's local rank."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device is {device}, but every process takes its own; use cuda or cpu.")
    local, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device == "cuda" and local >= here:
        raise ConfigError(
            f"there are {here} GPUs here for more than {local} processes; start one process a GPU, "
            "or set device=cpu."
        )
    return device if device == "cpu" else f"cuda:{local}"


@contextmanager
def _waiting() -> Iterator[None]:
    """Tell the loss of another process from a fault of ours."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(
            f"another process of this run has ended ({str(error).splitlines()[0][:200]}); "
            "its own message says why."
        ) from error

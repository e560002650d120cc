"""The processes that train one model, and what they tell each other."""

from __future__ import annotations

import io
import os
import platform
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from trainctl.data.sampler import Share
from trainctl.distributed.context import World
from trainctl.errors import ConfigError, RankError

_PrefixStore = dist.PrefixStore  # type: ignore[attr-defined]


class Group:
    """The processes of one run. Every method but :meth:`replicated` must be called by all of them, in the
    same order; each raises RuntimeError where another one has gone, or gives no answer in time.

    Attributes:
        hosts: names of the machines they run on, in the order of ranks.
    """

    def __init__(self, world: World, timeout: float) -> None:
        self.timeout = timeout
        self.world, self.rank, self.size = world, world.rank, world.size
        self.device = torch.device("cpu")
        self._flag = torch.zeros((), dtype=torch.int64)
        # NCCL works on CUDA tensors only, and waits on the device: what is agreed goes between the hosts.
        self._hosts: Any = dist.new_group(backend="gloo") if _has_cuda() else dist.group.WORLD
        self.hosts = self.gather(platform.node())

    def answer_within(self, seconds: float) -> None:
        """From now on a process that does not answer for so long counts as hung."""
        from torch.distributed import distributed_c10d as torchs

        # Older versions of torch have no public name for it.
        name = "set_timeout" if hasattr(torchs, "set_timeout") else "_set_pg_timeout"
        self.timeout = seconds
        for group in {dist.group.WORLD, self._hosts}:
            getattr(torchs, name)(timedelta(seconds=seconds), group)

    def sum(self, values: Tensor) -> Tensor:
        """``values``, added up over all processes, in place."""
        dist.all_reduce(values)
        return values

    def sum_meanwhile(self, values: Tensor) -> Any:
        """Begin to add up ``values`` in place; ``wait()`` of the result waits for the sums."""
        return dist.all_reduce(values, async_op=True)

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        self._flag.fill_(int(flag))
        dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._hosts)
        return bool(self._flag)

    def gather(self, value: Any, device: torch.device | None = None) -> list[Any]:
        """Each process's ``value`` in the order of ranks; its own stays as it is. The tensors of others come
        to ``device``, by default this process's. They are pickled, between processes that are one program."""
        buffer = io.BytesIO()
        torch.save(value, buffer)
        own = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor(len(own)), group=self._hosts)
        most = max(int(size) for size in sizes)
        padded = torch.zeros(most, dtype=torch.uint8)
        padded[: len(own)] = own
        received = [torch.zeros(most, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(received, padded, group=self._hosts)
        return [
            torch.load(
                io.BytesIO(bytes(each[: int(size)].numpy())),
                map_location=device or self.device,
                weights_only=False,
            )
            if rank != self.rank
            else value
            for rank, (each, size) in enumerate(zip(received, sizes, strict=True))
        ]

    def first(self, value: Any) -> Any:
        """The value of rank 0."""
        return self.gather(value if self.rank == 0 else None)[0]

    def share(self, *, by_turns: bool = False) -> Share:
        """This process's share of a split."""
        world = self.world
        return Share(world.rank, world.size, world.local_size, by_turns=by_turns)

    def wait(self) -> None:
        """Wait until all have come here."""
        self.any(False)

    @contextmanager
    def first_on_each_machine(self) -> Iterator[None]:
        """Inside, one process of each machine does what the others then find done: a download, a cache."""
        if self.world.local_rank > 0:
            self.wait()
        try:
            yield
        finally:
            if self.world.local_rank == 0:
                self.wait()
        self.wait()

    def share_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Give every process rank 0's values of ``tensors``, in place."""
        for tensor in tensors.values():
            dist.broadcast(tensor, 0)

    def replicated(self, model: Any, *, bucket_mb: float, find_unused: bool) -> Any:
        """``model`` as the step calls it: each backward pass leaves the mean of all gradients in it.

        Li et al., PyTorch Distributed: experiences on accelerating data parallel training (VLDB 2020).
        """
        from torch.nn.parallel import DistributedDataParallel  # no part of a run on one device

        devices = [self.device] if self.device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            model,
            device_ids=devices,
            bucket_cap_mb=bucket_mb,
            find_unused_parameters=find_unused,
            gradient_as_bucket_view=True,
        )
        if not find_unused:
            _order_buckets(wrapped)
        return wrapped

    def sharded(self, model: Any, units: Sequence[Any], *, bf16: bool, offload: bool) -> None:
        """Cut the parameters of ``model`` among the processes, in place: each holds a part of every one.

        Args:
            units: modules whose parameters are gathered on their own; the rest is gathered as a whole.
            bf16: parameters travel and work in bfloat16, gradients are added up in float32.
            offload: they and their gradients lie in main memory, where the optimizer works.

        Zhao et al., PyTorch FSDP: experiences on scaling fully sharded data parallel (VLDB 2023).
        """
        # Its import takes over a second.
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        world: Any = dist.group.WORLD
        mesh = DeviceMesh.from_group(world, self.device.type)
        policy = MixedPrecisionPolicy()
        if bf16:
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, output_dtype=torch.float32)
        where = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if offload else OffloadPolicy()
        for module in (*units, model):
            module.register_forward_hook(_without_views)
            fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=where)


def _order_buckets(wrapped: Any) -> None:
    """Have the gradients lie in their buckets as they will for the whole run.

    After the first backward pass torch orders them as they became ready, once. Where a gradient lies decides
    the order in which three or more processes add it up, and with that its last bits: a resumed run would
    take its first step with others. So a backward pass through nothing but the parameters comes first.
    """
    wrapped.reducer.prepare_for_backward([])
    parameters = [item for item in wrapped.parameters() if item.requires_grad]
    torch.stack([item.sum().float() for item in parameters]).sum().backward()  # type: ignore[no-untyped-call]
    for item in parameters:
        item.grad = None
    wrapped.reducer._rebuild_buckets()


def _without_views(module: Any, inputs: Any, outputs: Any) -> Any:
    """Outputs that are no views: an in-place operation on a view would drop FSDP's hook on it, and with that
    the gathering before the backward pass."""
    if isinstance(outputs, tuple | list):
        return type(outputs)(_without_views(module, inputs, each) for each in outputs)
    return outputs.clone() if isinstance(outputs, Tensor) and outputs._is_view() else outputs


def _has_cuda() -> bool:
    return torch.cuda.is_available() and dist.is_nccl_available()


@contextmanager
def joined(world: World, timeout: float, store: Any = None) -> Iterator[Group]:
    """The group of these processes inside.

    Args:
        timeout: seconds after which a process that does not answer counts as hung.
        store: where they meet; None is what MASTER_ADDR and MASTER_PORT say.

    Raises RankError where another process has gone, or does not answer.
    """
    group = None
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if _has_cuda() else "gloo",
            store=_own_keys(world, timeout) if store is None else store,
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout),
        )
        group = Group(world, timeout)
        yield group
    except RuntimeError as error:
        if "Expected to have finished reduction" in str(error):
            raise ConfigError(
                "the model has parameters that a step does not use, and devices wait for their gradients",
                "strategy.find_unused=true looks for them in each step",
            ) from error
        if "DTensor" in str(error) or "placement" in str(error) or "sharding strategy" in str(error):
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise ConfigError(
                f"the model or the optimizer does what cannot be done on parts of a parameter: {reason}",
                "use strategy=ddp",
            ) from error
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            reason = re.sub(r"^\[\S+\] ", "", str(error).partition("\n")[0])  # the place in gloo's source
            waited = timeout if group is None else group.timeout
            raise RankError(
                f"another process of this run has gone, or did not answer for {waited:g} s: {reason}",
                "its last lines are in logs/ of the run; trainctl resume goes on from the last checkpoint",
            ) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_keys(world: World, timeout: float) -> Any:
    """The launcher's store, with keys that belong to this start of the processes alone.

    ``torchrun --max-restarts`` keeps one store for all its starts, with the addresses of those that have
    ended, which torch would connect to. Rank 0 gives this start a name; the others answer until rank 0 has
    read their own answers, and not those of an earlier start.
    """
    store: Any = next(rendezvous("env://", world.rank, world.size, timeout=timedelta(seconds=timeout)))[0]
    own, until = uuid.uuid4().hex, time.monotonic() + timeout
    if world.rank == 0:
        store.set("start", own)
        answers = [f"{own}/{rank}" for rank in range(1, world.size)]
        store.wait(answers, timedelta(seconds=timeout))
        store.set(f"{own}/all", b" ".join(map(store.get, answers)))
        return _PrefixStore(own, store)
    while time.monotonic() < until:
        start = store.get("start").decode()
        store.set(f"{start}/{world.rank}", own)
        if store.check([f"{start}/all"]) and own.encode() in store.get(f"{start}/all"):
            return _PrefixStore(start, store)
        time.sleep(0.02)
    raise dist.DistStoreError("rank 0 has not come")


def announce(world: World, store: Any) -> None:
    """Say at ``store`` that this process has come."""
    store.set(f"rank {world.rank}", "here")


def await_others(world: World, store: Any, look: Callable[[], None]) -> None:
    """Wait until all others have come; ``look`` is called meanwhile, and may raise."""
    names = [f"rank {rank}" for rank in range(1, world.size)]
    while not store.check(names):
        look()
        time.sleep(0.02)


def meeting_place(world: World, port: int = 0) -> Any:
    """A store on this machine, on a free port at rank 0, who tells the others which."""
    # On this machine nothing has to leave the loopback interface.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if platform.system() == "Darwin" else "lo")
    here, is_master = "127.0.0.1", world.rank == 0
    return dist.TCPStore(here, port, world.size, is_master=is_master, wait_for_workers=False)  # type: ignore[attr-defined]

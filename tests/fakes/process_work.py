"""Work for processes that the tests start."""

import os
import signal

import torch
import torch.distributed as dist


def sum_of_ranks(world, send, extra):
    total = torch.tensor([float(world.rank)])
    dist.all_reduce(total)
    send((world.rank, total.item(), extra))


def fail_in_the_second(world, send):
    if world.rank == 1:
        raise ValueError("the second process has had enough\nand says more")
    dist.barrier()  # waits for a process that never comes


def die_in_the_second(world, send):
    send(os.getpid())
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()

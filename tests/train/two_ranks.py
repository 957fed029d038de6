"""In each of two ranks: every case of the battery on half of the images; rank 0 writes what both found together.

Then crosskd and pkd, whose statistics pass their gradient between ranks, in one compiled graph inside DDP.
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel

from pipeline.command.ranks import joined
from tests.train import battery
from train import distributed
from train.distill import CrossKdConfig, PkdConfig
from train.step import Learner, Teacher


def together(value: Tensor) -> Tensor:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / 2


def compare_compiled(rank: int) -> None:
    student, teacher = battery.student_of("atss"), battery.teacher_of("atss", True)
    methods = {
        config.kind: battery.make_method(config, student, teacher, distributed.mean)
        for config in (CrossKdConfig(), PkdConfig())
    }
    views = battery.rows_of(battery.make_views(empty=2), torch.arange(2) + 2 * rank)
    seen = Teacher(teacher, list(methods.values()), torch.float32)(views)
    learner = Learner(student, methods, torch.float32, distributed.mean)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.config.optimize_ddp = False
    found = []
    for inner in (learner, torch.compile(learner, backend=counter, fullgraph=True)):
        learner.zero_grad(set_to_none=True)
        total, scalars = DistributedDataParallel(inner, broadcast_buffers=False, bucket_cap_mb=1)(views, seen)
        total.backward()
        found.append([scalars, *(each.grad.clone() for each in learner.parameters() if each.grad is not None)])
    assert counter.frame_count == 1
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


def main() -> None:
    with joined("cpu", timedelta(minutes=5)) as world:
        found: dict[str, Tensor] = {}
        for kind, config in battery.cases():
            student, teacher = battery.student_of(kind), battery.teacher_of(kind, True)
            learner, method = battery.learner_of(config, student, teacher, distributed.mean)
            views = battery.rows_of(battery.make_views(empty=2), torch.arange(2) + 2 * world.rank)
            terms = battery.terms_of(learner, method, teacher, views)
            name = f"{kind} {battery.name_of(config)}"
            found[f"{name} terms"] = together(torch.stack([*terms.values(), torch.zeros(())]))
            found[f"{name} gradient"] = together(battery.gradients_of(terms, learner))
        if world.first:
            save_file(found, sys.argv[1])
        compare_compiled(world.rank)


if __name__ == "__main__":
    main()

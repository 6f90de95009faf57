"""Run by torchrun: a family under DDP and FSDP, against the same family in one process. Prints what differed."""

import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.training.shapes import decoders, random_family, random_ids
from training.modeling import FamilyForCausalLM
from training.objective import Objective

STEPS = 3


def made(frozen: bool) -> FamilyForCausalLM:
    family = random_family(decoders()["llama-tied"]).double().train()
    family.model.requires_grad_(not frozen)
    family.objective = Objective("ce+kl")
    return family


def ddp(family: FamilyForCausalLM) -> nn.Module:
    return nn.parallel.DistributedDataParallel(family)


def fsdp(family: FamilyForCausalLM, branches: bool = False) -> nn.Module:
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    blocks = [family.branch(g).block for g in (2, 3)] if branches else []
    for module in (*family.model.layers, *blocks):
        fully_shard(module, mesh=mesh)
    fully_shard(family, mesh=mesh)
    return family


def fsdp_of_branches_too(family: FamilyForCausalLM) -> nn.Module:
    return fsdp(family, branches=True)


def trained(model: nn.Module, ids: Tensor) -> Tensor:
    """Losses of some steps."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(STEPS):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def difference(wrap: Callable[[FamilyForCausalLM], nn.Module], frozen: bool) -> float:
    """Largest difference of losses and trained parameters between one process and all."""
    ids, rank, world = random_ids(4), distributed.get_rank(), distributed.get_world_size()
    alone, family = made(frozen), made(frozen)
    expected = trained(alone, ids)
    losses = trained(wrap(family), ids.chunk(world)[rank])
    distributed.all_reduce(losses)
    worst = [(losses / world - expected).abs().max()]
    for name, parameter in alone.named_parameters():
        own = family.get_parameter(name).detach()
        worst.append((getattr(own, "full_tensor", lambda own=own: own)() - parameter.detach()).abs().max())
    return float(torch.stack(worst).max())


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = {
        f"{wrap.__name__}, {'branches' if frozen else 'everything'} trained": difference(wrap, frozen)
        for wrap in (ddp, fsdp, fsdp_of_branches_too)
        for frozen in (False, True)
    }
    if distributed.get_rank() == 0:
        sys.stdout.write(json.dumps(found) + "\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

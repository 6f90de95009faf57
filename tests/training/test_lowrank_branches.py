"""A low-rank branch is nested: cut to any rank, it is the best of that rank on the inputs that its maps really get."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from family.errors import SpecError
from family.spec import Exit
from tests.training.shapes import decoders, random_family, random_ids
from training.branches import Branch, cut, factorise
from training.lowrank import LowRankLinear, at_rank, components, nested_rank
from training.modeling import FamilyForCausalLM
from training.objective import Objective, Progress

EXITS = (Exit(2, "block"), Exit(4, "norm"))
WINDOWS = [random_ids(8, 32, seed) for seed in range(4)]
RANKS = (1, 4, 8, 16, 24, 32)


@pytest.fixture(params=["llama", "qwen2-sliding"])  # without and with biases
def family(request: pytest.FixtureRequest) -> FamilyForCausalLM:
    return random_family(decoders()[request.param], EXITS)


def rows_of(family: FamilyForCausalLM, branch: Branch) -> Tensor:
    with torch.no_grad():
        states, context = family.states(WINDOWS[0])
        return branch(states[1], context)


def maps(branch: Branch, kind: type) -> dict[str, nn.Module]:
    assert branch.block is not None
    return {name: m for name, m in branch.block.named_modules() if isinstance(m, kind)}


def test_at_full_rank_it_is_the_block(family: FamilyForCausalLM) -> None:
    low = factorise(family.branch(1), family.moments(WINDOWS)[1], 32)
    assert low.exit == Exit(2, "lowrank", 32)
    assert len(maps(low, LowRankLinear)) == 7 and not maps(low, nn.Linear)
    torch.testing.assert_close(rows_of(family, low), rows_of(family, family.branch(1)), rtol=1e-5, atol=1e-5)


def test_each_map_loses_what_its_singular_values_say_and_less_than_by_plain_truncation() -> None:
    torch.manual_seed(0)
    weight, mix = torch.randn(20, 30).double(), torch.randn(30, 30).double() * torch.linspace(0.01, 3, 30)
    x = torch.randn(5000, 30).double() @ mix.T
    moment = x.T @ x / len(x)
    (u, v), (plain_u, plain_v) = components(weight, moment), components(weight, None)
    torch.testing.assert_close(u @ v, weight)

    def error(left: Tensor, right: Tensor, rank: int) -> float:
        return float(((x @ (weight - left[:, :rank] @ right[:rank]).T) ** 2).sum(1).mean())

    values = torch.linalg.eigvalsh(weight @ moment @ weight.T).flip(0)  # Eckart-Young: the least that any map can lose
    for rank in range(1, 20):
        assert error(u, v, rank) == pytest.approx(float(values[rank:].sum()), rel=1e-3)
        assert error(u, v, rank) < error(plain_u, plain_v, rank)


def test_a_singular_moment_is_harmless() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(8, 12).double(), torch.randn(5, 12).double()
    u, v = components(weight, x.T @ x)
    torch.testing.assert_close(u @ v, weight)
    torch.testing.assert_close(x @ (u[:, :5] @ v[:5]).T, x @ weight.T, rtol=1e-3, atol=1e-3)
    zero = components(weight, torch.zeros(12, 12))
    torch.testing.assert_close(zero[0] @ zero[1], weight)


def test_the_blocks_error_falls_with_the_rank(family: FamilyForCausalLM) -> None:
    whole, moments = rows_of(family, family.branch(1)), family.moments(WINDOWS)[1]
    errors = [float((rows_of(family, factorise(family.branch(1), moments, r)) - whole).norm()) for r in RANKS]
    assert errors == sorted(errors, reverse=True)


def test_cutting_is_factorising_at_the_lower_rank_and_cutting_twice_is_cutting_once(
    family: FamilyForCausalLM,
) -> None:
    moments = family.moments(WINDOWS)[1]
    low = factorise(family.branch(1), moments, 24)
    for other in (cut(cut(low, 16), 8), factorise(family.branch(1), moments, 8)):
        for name, map_ in maps(cut(low, 8), LowRankLinear).items():
            assert isinstance(map_, LowRankLinear) and map_.rank == 8
            torch.testing.assert_close(maps(other, LowRankLinear)[name].state_dict(), map_.state_dict())


def test_a_cut_family_is_the_family_at_that_rank_and_saves_as_such(family: FamilyForCausalLM, tmp_path: Path) -> None:
    low = family.with_branches({1: factorise(family.branch(1), family.moments(WINDOWS)[1], 24)})
    assert low.config.exit(1) == Exit(2, "lowrank", 24) and family.config.exit(1) == Exit(2, "block")
    small = low.with_branches({1: cut(low.branch(1), 8)})
    ids = WINDOWS[0]
    with torch.no_grad(), at_rank(low, 8):
        expected = low.head(low.forward_exits(ids)[1])
    small.save_pretrained(tmp_path / "family")
    small.submodel(1).save_pretrained(tmp_path / "plain")
    with torch.no_grad():
        reloaded = FamilyForCausalLM.from_pretrained(tmp_path / "family")
        torch.testing.assert_close(reloaded.head(reloaded.forward_exits(ids)[1]), expected)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
        torch.testing.assert_close(plain(ids).logits, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(low.submodel(1, rank=8)(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_base_is_factorised_for_the_text_given(family: FamilyForCausalLM) -> None:
    dense = family.submodel(2)
    low = FamilyForCausalLM.from_base((Exit(2, "lowrank", 32), Exit(4, "norm")), dense, WINDOWS)
    with torch.no_grad():
        block = FamilyForCausalLM.from_base(EXITS, dense).forward_exits(WINDOWS[0])[1]
        torch.testing.assert_close(low.forward_exits(WINDOWS[0])[1], block, rtol=1e-5, atol=1e-5)


def test_every_prefix_gets_its_turn_and_the_whole_every_other() -> None:
    ranks = [nested_rank(step, 16) for step in range(400)]
    assert ranks[::2] == [16] * 200
    assert all(10 <= ranks[1::2].count(rank) <= 15 for rank in range(1, 17))


def test_what_cannot_be_cut_is_refused(family: FamilyForCausalLM) -> None:
    low = factorise(family.branch(1), {}, 8)
    with pytest.raises(SpecError, match=r"rank 9: the 'lowrank' branch after layer 2 can be cut to 1\.\.8"):
        cut(low, 9)
    with pytest.raises(SpecError, match=r"rank 0: expected 1\.\.32"):
        cut(low, 0)
    with pytest.raises(SpecError, match="the 'block' branch after layer 2 cannot be cut; factorise it first"):
        family.submodel(1, rank=4)
    with pytest.raises(SpecError, match="the last exit has no branch"):
        family.submodel(2, rank=4)
    with pytest.raises(SpecError, match="expected branches of"):
        family.with_branches({1: Branch(family.model, Exit(3, "norm"))})


def test_a_trained_branch_gets_better_with_every_rank_and_most_when_put_in_order_again() -> None:
    family = random_family(decoders()["llama"], (Exit(2, "lowrank", 16), Exit(4, "norm"))).train()
    family.requires_grad_(False)
    family.branches.requires_grad_(True)
    family.objective = Objective("kl")
    windows = [random_ids(8, 32, seed) for seed in range(8)]
    optimizer = torch.optim.AdamW(family.branches.parameters(), lr=1e-2)
    for step in range(80):
        family.progress = Progress(step)
        family(windows[step % 8], labels=windows[step % 8]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    family.eval()
    ordered = family.with_branches({1: factorise(family.branch(1), family.moments(windows)[1], 16)})
    by_matrix = family.with_branches({1: factorise(family.branch(1), {}, 16)})

    def losses(of: FamilyForCausalLM) -> list[float]:
        found = []
        for rank in (1, 2, 3, 4, 6, 8, 12, 16):
            with torch.no_grad(), at_rank(of, rank):
                found.append(sum(float(of(batch, labels=batch).exit_losses[0]) for batch in windows))
        return found

    trained, best, plain = losses(family), losses(ordered), losses(by_matrix)
    assert best[-1] == pytest.approx(trained[-1], rel=1e-4) and best[-1] == pytest.approx(plain[-1], rel=1e-4)
    for found in (trained, best, plain):
        assert found == sorted(found, reverse=True)
    assert all(mine < min(others) for mine, *others in zip(best[:-1], trained, plain, strict=False))

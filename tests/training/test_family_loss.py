"""The family loss is the mean of the sub-models' losses and its gradient the mean of theirs, whatever trains."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from family.strict import FieldError
from tests.training.shapes import VOCAB, decoders, random_family, random_ids
from training import headloss, loss
from training.errors import BaseModelError
from training.lora import add_lora
from training.lowrank import at_rank, nested_rank
from training.modeling import FamilyForCausalLM
from training.objective import Objective, Progress

EXACT = {"rtol": 1e-9, "atol": 1e-12}
LABELS = random_ids(seed=1)
LABELS[0, 3:7] = LABELS[2, -1] = -100
IDS = random_ids()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that divide neither the positions nor each other, and more than one group of windows."""
    monkeypatch.setitem(headloss.MATMUL_ROWS, "cpu", 28)
    monkeypatch.setitem(headloss.CACHED_LOGITS, "cpu", 3 * VOCAB)
    monkeypatch.setitem(loss.GROUP_TOKENS, "cpu", 2 * IDS.shape[1])


def gradients(value: Tensor, family: nn.Module) -> dict[str, Tensor]:
    """d value / d parameter by name; 0 where it does not matter."""
    names, parameters = zip(*((n, p) for n, p in family.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


def assert_same(family: FamilyForCausalLM, found: Tensor, expected: Tensor) -> None:
    """Equal value and equal gradients."""
    torch.testing.assert_close(found, expected, **EXACT)
    own = gradients(found, family)
    for name, gradient in gradients(expected, family).items():
        torch.testing.assert_close(own[name], gradient, msg=lambda text, name=name: f"{name}: {text}", **EXACT)


def all_logits(family: FamilyForCausalLM) -> dict[int, Tensor]:
    """Logits of every exit, through plain autograd."""
    return {g: family.head(rows) for g, rows in family.forward_exits(IDS).items()}


def ce(logits: Tensor) -> Tensor:
    """Cross-entropy as Hugging Face has it."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten(), ignore_index=-100)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, every: int = 1, step: int = 0) -> Tensor:
    """Torch's own KL over the positions that carry it."""
    carries = functional.pad(LABELS[:, 1:] != -100, (0, 1))
    carries &= (torch.arange(IDS.shape[1]) - step) % every == 0
    log_q, log_p = (functional.log_softmax(x[carries] / temperature, -1) for x in (student, teacher.detach()))
    return temperature**2 * functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def a_family(name: str = "llama", frozen: Iterable[str] = ()) -> FamilyForCausalLM:
    family = random_family(decoders()[name]).double().train()
    for part in frozen:
        getattr(family, part).requires_grad_(False)
    return family


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2", "qwen3-sliding", "mistral-sliding"])
@pytest.mark.parametrize("frozen", [(), ("model",), ("model", "lm_head"), ("branches",), ("lm_head",)])
def test_loss_and_gradient_are_the_means_of_the_submodels(name: str, frozen: tuple[str, ...]) -> None:
    family = a_family(name, frozen)
    found = family(IDS, labels=LABELS)
    separate = torch.stack([ce(logits) for logits in all_logits(family).values()])
    torch.testing.assert_close(found.exit_losses, separate.detach(), **EXACT)
    assert_same(family, found.loss, separate.mean())


def test_an_exits_loss_is_the_one_that_its_saved_model_has() -> None:
    family = a_family()
    found = family(IDS, labels=LABELS)
    with torch.no_grad():
        saved = [family.submodel(g)(IDS, labels=LABELS).loss for g in range(1, 5)]
    torch.testing.assert_close(found.exit_losses.float(), torch.stack(saved))  # Hugging Face's is float32


@pytest.mark.parametrize("frozen", [(), ("model", "lm_head")])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("every", "step"), [(1, 0), (3, 0), (3, 2)])
def test_distillation_is_the_kl_from_the_last_exit_which_it_leaves_alone(
    frozen: tuple[str, ...], temperature: float, every: int, step: int
) -> None:
    family = a_family(frozen=frozen)
    family.objective = Objective("kl", temperature=temperature, every=every)
    family.progress = Progress(step)
    with at_rank(family, nested_rank(step, 12)):
        *early, teacher = all_logits(family).values()
    separate = [kl(logits, teacher, temperature, every, step) for logits in early]
    assert_same(family, family(IDS, labels=LABELS).loss, torch.stack(separate).sum() / 4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("every", [1, 2])
def test_both_objectives_at_once(temperature: float, every: int) -> None:
    family = a_family("llama-tied")
    family.objective = Objective("ce+kl", kl_weight=0.3, temperature=temperature, every=every, weights=(1, 0, 2, 3))
    *early, teacher = all_logits(family).values()
    separate = [0.7 * ce(logits) + 0.3 * kl(logits, teacher, temperature, every) for logits in early]
    found = family(IDS, labels=LABELS)
    assert_same(family, found.loss, separate[0] + 2 * separate[2] + 3 * ce(teacher))
    torch.testing.assert_close(found.exit_losses, torch.stack([*separate, ce(teacher)]).detach(), **EXACT)


def test_agreement_is_the_share_of_positions_with_the_last_exits_first_token() -> None:
    family = a_family()
    family.objective = Objective("kl", every=2)
    top = torch.stack([logits.argmax(-1) for logits in all_logits(family).values()])
    carries = functional.pad(LABELS[:, 1:] != -100, (0, 1))
    carries[:, 1::2] = False
    expected = (top == top[-1])[:, carries].double().mean(1)
    found = family(IDS, labels=LABELS).agreement
    torch.testing.assert_close(found[:3], expected[:3])
    assert found[3] == 0


def test_the_weights_of_the_config_hold_unless_the_objective_has_its_own() -> None:
    family = random_family(decoders()["llama"], exit_weights=[4, 3, 2, 1])
    with torch.no_grad():
        losses = family(IDS, labels=LABELS).exit_losses
        assert family(IDS, labels=LABELS).loss.item() == pytest.approx(float(losses @ torch.tensor([4.0, 3, 2, 1])))
        family.objective = Objective(schedule=((0.0, (1, 0, 0, 0)), (0.5, (0, 0, 0, 1))))
        family.progress = Progress(share=0.25)
        assert family(IDS, labels=LABELS).loss.item() == pytest.approx(float(losses[0] + losses[3]) / 2)


def test_gradients_add_up_over_batches_and_reach_every_parameter() -> None:
    family = a_family("llama-tied")
    for part in (slice(0, 1), slice(1, 3)):
        family(IDS[part], labels=LABELS[part]).loss.backward()
    total = {name: p.grad for name, p in family.named_parameters()}
    family.zero_grad()
    (family(IDS[:1], labels=LABELS[:1]).loss + family(IDS[1:], labels=LABELS[1:]).loss).backward()
    for name, parameter in family.named_parameters():
        torch.testing.assert_close(total[name], parameter.grad, **EXACT)
        assert parameter.grad.abs().sum() > 0


def test_going_backward_twice_is_an_error_that_says_why() -> None:
    found = a_family()(IDS, labels=LABELS).loss
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="its gradients are given away"):
        found.backward()


@pytest.mark.parametrize("kind", ["ce", "kl", "ce+kl"])
def test_no_more_logits_exist_than_a_chunk_of_them(kind: str) -> None:
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape[-1:] == (VOCAB,) and out.ndim == 2:
                self.size = max(self.size, len(out))
            return out

    family = a_family()
    family.objective = Objective(kind)
    with Largest() as largest:
        family(IDS, labels=LABELS).loss.backward()
    assert 0 < largest.size <= 32  # chunks of 28 rows; the head transposed has 32, all exits of the batch 192


def test_a_scaled_loss_has_scaled_gradients() -> None:
    family = a_family()
    once = gradients(family(IDS, labels=LABELS).loss, family)
    for name, gradient in gradients(family(IDS, labels=LABELS).loss * 1024, family).items():
        torch.testing.assert_close(gradient, once[name] * 1024, **EXACT)


def test_padding_changes_nothing() -> None:
    family = a_family("qwen3-sliding")
    padded = torch.cat([IDS, torch.zeros_like(IDS[:, :3])], 1)
    mask = torch.cat([torch.ones_like(IDS), torch.zeros_like(IDS[:, :3])], 1)
    labels = torch.cat([LABELS, torch.full_like(IDS[:, :3], -100)], 1)
    assert_same(family, family(padded, mask, labels).loss, family(IDS, labels=LABELS).loss)


def test_without_a_label_the_loss_is_0() -> None:
    family = a_family()
    found = family(IDS, labels=torch.full_like(IDS, -100)).loss
    assert found == 0 and all(not gradient.any() for gradient in gradients(found, family).values())


def test_recomputed_activations_change_nothing() -> None:
    family = a_family()
    expected = gradients(family(IDS, labels=LABELS).loss, family)
    family.activation_checkpointing_enable()
    for name, gradient in gradients(family(IDS, labels=LABELS).loss, family).items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


@pytest.mark.parametrize("kind", ["ce", "kl", "ce+kl"])
def test_bfloat16_is_close(kind: str) -> None:
    family = random_family(decoders()["llama-tied"]).train()
    family.objective = Objective(kind)
    expected = family(IDS, labels=LABELS)
    exact = gradients(expected.loss, family)
    with torch.autocast("cpu", torch.bfloat16):
        found = family(IDS, labels=LABELS)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.exit_losses, expected.exit_losses, rtol=0.02, atol=0.02)
    for name, gradient in gradients(found.loss, family).items():
        assert gradient.dtype == torch.float32
        error = (gradient - exact[name]).norm() / exact[name].norm().clamp_min(1e-12)
        assert error < 0.1 or not exact[name].any(), f"{name}: {error}"


def test_lora_on_the_trunk_trains_through_the_exits() -> None:
    family = a_family(frozen=("model", "lm_head"))
    add_lora(family.model, 2)
    family.double()
    for name, parameter in family.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    separate = torch.stack([ce(logits) for logits in all_logits(family).values()])
    assert_same(family, family(IDS, labels=LABELS).loss, separate.mean())
    assert any("lora_A" in name for name in gradients(family(IDS, labels=LABELS).loss, family))


def test_a_head_with_adapters_is_refused() -> None:
    family = a_family()
    family.lm_head = nn.Sequential(family.lm_head)
    with pytest.raises(BaseModelError, match="put no LoRA on the head"):
        family(IDS, labels=LABELS)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"kind": "mse"}, "kind: expected one of"),
        ({"kl_weight": 2}, r"kl_weight: expected 0\.\.1, got 2"),
        ({"temperature": 0}, "temperature: expected a positive number, got 0"),
        ({"every": 0}, "every: expected a positive number, got 0"),
        ({"weights": (1, 1), "schedule": ((0, (1, 1)),)}, "schedule: give weights or a schedule, not both"),
        ({"schedule": ((0.5, (1, 1)), (0.5, (1, 1)))}, "schedule: shares must rise"),
        ({"weights": (1, -1)}, "weights: expected numbers from 0 on, not all 0"),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(FieldError, match=problem):
        Objective(**given)


def test_a_schedule_is_linear_between_its_points_and_constant_outside() -> None:
    objective = Objective(schedule=((0.2, (1, 0)), (0.6, (0, 1)), (0.8, (0.5, 0.5))))
    shares = (0.0, 0.2, 0.3, 0.6, 0.7, 1.0)
    expected = [(1, 0), (1, 0), (0.75, 0.25), (0, 1), (0.25, 0.75), (0.5, 0.5)]
    assert [objective.weights_at(share, 2) for share in shares] == [pytest.approx(weights) for weights in expected]
    with pytest.raises(FieldError, match="weights: expected one per exit, 3; got 2"):
        objective.weights_at(0.5, 3)

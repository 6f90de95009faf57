"""Memory of each node: the process, its graphs, and the keys, values and rows of its sessions."""

from collections.abc import Mapping, Sequence

from family.manifest import GRAPH_KINDS, graph_name
from scaling.plan.cost import LARGEST_FORWARD, Machine, Number
from scaling.plan.deployment import Deployment

F32_BYTES = 4


def memory_bytes(
    deployment: Deployment,
    machines: Mapping[str, Machine],
    asked: Sequence[int],
    prompt_tokens: Number,
    output_tokens: Number,
    sessions: Number,
) -> dict[str, Number]:
    """By tier. `asked` are the exits that are ever asked: what lies beyond the deepest holds no session's rows."""
    spec, found = deployment.spec, {}
    whole = prompt_tokens / LARGEST_FORWARD
    largest = whole if whole < 1 else 1.0
    for place in deployment.places:
        machine = machines[place.tier]
        names = [graph_name(kind, g) for g in place.segments for kind in GRAPH_KINDS]
        total: Number = machine.other_bytes + machine.weight_bytes.get("shared", 0.0)
        position = 0.0
        for name in names:
            total = total + machine.weight_bytes.get(name, 0.0) + largest * machine.forward_bytes.get(name, 0.0)
        for g in place.segments:
            if g <= max(asked):
                position += machine.kv_bytes_per_position[graph_name("segment", g)] + F32_BYTES * spec.d_model
            if g in asked:
                position += machine.kv_bytes_per_position[graph_name("exit", g)]
        found[place.tier] = total + sessions * (prompt_tokens + output_tokens) * position
    return found

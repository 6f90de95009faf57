"""Real `relay-node` processes: one text over three of them, health, draining, and a crash in mid-sentence."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relay.client.sync import RelayClient
from relay.client.types import GenerateOptions, Token
from relay.errors import NotReadyError, UnreachableError
from relay.node.serve import HEALTH_SERVICES
from relay.policy import ExitSchedule, target_exit
from tests.relay.processes import PATIENCE_S, NodeProcess, free_port, node_process, run, start_node
from tests.relay.servers import HOST

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PROMPT = "The relay begins on the phone."
OPTIONS = GenerateOptions(policy=ExitSchedule(5), max_tokens=200, ignore_stop=True)


@contextmanager
def processes(bundle: Path) -> Iterator[tuple[NodeProcess, NodeProcess, NodeProcess]]:
    """Device, edge and cloud, a process each."""
    with ExitStack() as stack:
        cloud = stack.enter_context(node_process(bundle, "cloud"))
        edge = stack.enter_context(node_process(bundle, "edge", "--upstream", cloud.address))
        device = stack.enter_context(node_process(bundle, "device", "--upstream", edge.address))
        yield device, edge, cloud


@pytest.fixture(scope="module")
def whole(tiny_bundle: Path) -> list[Token]:
    """The text as one process writes it."""
    with node_process(tiny_bundle, "all", "--segments", "1-3") as one, RelayClient(one.address) as client:
        return list(client.generate(PROMPT, **OPTIONS))


def decided(tokens: list[Token]) -> list[tuple[int, str, int]]:
    return [(token.id, token.text, token.exit) for token in tokens]


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S).status
        return status


def test_three_processes_write_the_text_that_one_writes(tiny_bundle: Path, whole: list[Token]) -> None:
    with processes(tiny_bundle) as (device, _, _), RelayClient(device.address) as client:
        relayed = list(client.generate(PROMPT, **OPTIONS))
        assert decided(relayed) == decided(whole)
        assert [t.tier for t in relayed] == [("device", "edge", "cloud")[t.exit - 1] for t in relayed]
        assert {t.exit for t in relayed} == {1, 2, 3}
        nodes = client.describe()
        assert [(n.tier, n.segments) for n in nodes] == [("device", (1,)), ("edge", (2,)), ("cloud", (3,))]
        assert all(n.rss_bytes > 0 for n in nodes) and nodes[0].rows_sent > 0
        said = run("relay", "generate", PROMPT, "--node", device.address, "--schedule", "5", "--max-tokens", "200")
        assert (said.returncode, said.stderr) == (0, "")
        assert said.stdout.strip() and "".join(t.text for t in whole).startswith(said.stdout.rstrip("\n"))


def test_health_is_serving_only_between_ready_and_draining(tiny_bundle: Path) -> None:
    listen = f"{HOST}:{free_port()}"
    process = start_node(tiny_bundle, "device", listen=listen)
    try:
        with grpc.insecure_channel(listen, (("grpc.max_reconnect_backoff_ms", 20),)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="relay.v1.Relay")
            seen = []
            watch = stub.Watch(request, wait_for_ready=True, timeout=PATIENCE_S)
            for reply in watch:
                seen.append(reply.status)
                if reply.status == SERVING:
                    assert all(health(listen, service) == SERVING for service in HEALTH_SERVICES)
                    process.send_signal(signal.SIGTERM)
                elif SERVING in seen:
                    break
            assert seen[-2:] == [SERVING, NOT_SERVING]
            assert set(seen[:-2]) <= {NOT_SERVING}
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_node_told_to_stop_lets_its_texts_end_and_takes_no_new_one(
    number: signal.Signals, tiny_bundle: Path, whole: list[Token]
) -> None:
    with processes(tiny_bundle) as (device, _, _), RelayClient(device.address) as client:
        stream = client.generate(PROMPT, **OPTIONS)
        tokens = iter(stream)
        relayed = [next(tokens)]
        device.signal(number)
        refused: Any = None
        while refused is None:
            refused = refusal(device.address)
        assert "shutting down" in str(refused) or "no relay node answers" in str(refused)
        relayed += tokens
        assert decided(relayed) == decided(whole)
        assert stream.finish is not None and stream.finish.reason == "length"
        assert device.wait() == 0


def refusal(address: str) -> Exception | None:
    """Why a new text is not written, once it is not."""
    with RelayClient(address) as client:
        try:
            list(client.generate([5], max_tokens=1))
        except (NotReadyError, UnreachableError) as error:
            return error
    return None


def test_a_text_survives_the_crash_and_restart_of_a_node_in_the_middle(tiny_bundle: Path) -> None:
    prompt = list(range(3, 15))
    seed = next(seed for seed in range(10_000) if early_tokens(seed, len(prompt)) == 8)
    options = GenerateOptions(policy=ExitSchedule(seed), max_tokens=100, ignore_stop=True)
    with ExitStack() as stack:
        cloud = stack.enter_context(node_process(tiny_bundle, "cloud"))
        edge = stack.enter_context(node_process(tiny_bundle, "edge", "--upstream", cloud.address))
        device = stack.enter_context(node_process(tiny_bundle, "device", "--upstream", edge.address))
        client = stack.enter_context(RelayClient(device.address))
        whole = list(client.generate(prompt, **options))
        rows_of_one_text = client.describe()[0].rows_sent

        cloud.signal(signal.SIGSTOP)  # the ninth token needs it: the text waits there until the edge is gone
        stream = client.generate(prompt, **options)
        tokens = iter(stream)
        relayed = [next(tokens) for _ in range(8)]
        edge.signal(signal.SIGKILL)
        edge.wait()
        cloud.signal(signal.SIGCONT)
        stack.enter_context(node_process(tiny_bundle, "edge", "--upstream", cloud.address, listen=edge.address))
        relayed += tokens

        assert decided(relayed) == decided(whole)
        replayed = client.describe()[0].rows_sent - 2 * rows_of_one_text
        assert replayed >= len(prompt), "what the dead node had consumed went up again"


def early_tokens(seed: int, position: int) -> int:
    """How many tokens are decided before the first at exit 3, some of them at exit 2."""
    exits = [target_exit(ExitSchedule(seed), position + i, 3) for i in range(100)]
    first = exits.index(3)
    return first if 2 in exits[:first] else 0

"""`relay health`: whether one node serves, for the health checks of containers and scripts."""

import sys
from typing import Any

HEALTH_TIMEOUT_S = 5.0
EXIT_NOT_SERVING = 1


def health(node: str, timeout_s: float | None) -> None:
    """Ask a node by gRPC's health protocol. Prints `serving`; else says what was answered, and exits with status 1."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(node) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its stubs leave the methods out
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s or HEALTH_TIMEOUT_S)
        except grpc.RpcError as error:
            answer = f"no relay node answers at {node}: {error.code().name}"
        else:
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                sys.stdout.write("serving\n")
                return
            answer = f"the node at {node} is still loading, or is shutting down"
    sys.stderr.write(f"error: {answer}\n")
    sys.exit(EXIT_NOT_SERVING)

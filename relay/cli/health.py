"""`relay health`: whether one node serves, for the health checks of containers and scripts."""

import sys
from typing import Any

from relay.cli.config import ClientConfig

HEALTH_TIMEOUT_S = 5.0
EXIT_NOT_SERVING = 1


def health(config: ClientConfig) -> None:
    """Ask a node by gRPC's health protocol. Prints `serving`; else says what was answered, and exits with status 1.

    Raises `ConfigurationError` for files of certificates that cannot be used.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from relay.errors import no_connection
    from relay.tls import client_credentials

    node, credentials = config.node, client_credentials(config.ca, config.cert, config.key)
    with grpc.insecure_channel(node) if credentials is None else grpc.secure_channel(node, credentials) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its stubs leave the methods out
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=config.timeout_s or HEALTH_TIMEOUT_S)
        except grpc.RpcError as error:
            answer = str(no_connection(error.details() or "", node))
        else:
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                sys.stdout.write("serving\n")
                return
            answer = f"the node at {node} is still loading, or is shutting down"
    sys.stderr.write(f"error: {answer}\n")
    sys.exit(EXIT_NOT_SERVING)

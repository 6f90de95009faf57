"""A word to the service manager: sd_notify(3), which is one datagram."""

import logging
import os
import socket

log = logging.getLogger("relay.node")


def notify_ready() -> None:
    """Tell systemd that the node serves, where systemd asked to be told (`Type=notify`); else nothing."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect("\0" + path[1:] if path.startswith("@") else path)
            manager.sendall(b"READY=1")
    except OSError as error:  # nobody listens there any more
        log.warning("could not tell NOTIFY_SOCKET %s that the node is ready: %s", path, error)

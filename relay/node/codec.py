"""Which codec the rows of a text travel in, and whether the nodes upstream know it."""

from relay.errors import InvalidRequestError, new_request_id
from relay.names import Codec
from relay.node.node import Node
from relay.policy import Policy, deepest_exit
from relay.v1 import relay_pb2 as pb

ASK_S = 1.0
"""How long a text waits for the nodes upstream to say what they know. One that does not answer refuses such rows when
they come."""


async def check_codec(node: Node, codec: Codec, policy: Policy) -> None:
    """Raise `InvalidRequestError` where there are no rows to encode, or the policy may ask an exit of a node upstream
    that does not know the codec.
    """
    if node.sends_ids and codec is not Codec.F32:
        raise InvalidRequestError(
            f"codec {codec.label} is for rows, and this node sends token ids; leave the codec out, or start the node "
            "without --send ids"
        )
    if codec not in node.agreed and deepest_exit(policy, node.deepest_exit) > node.last_segment:
        nodes = await node.describe(ASK_S, new_request_id())
        for other in nodes:
            _check(other, codec)
        if nodes[-1].last_segment == node.manifest.spec.granularity:
            node.agreed.add(codec)


def _check(other: pb.Node, codec: Codec) -> None:
    known = [one for one in Codec if one in (other.codecs or [Codec.F32])]
    if codec not in known:
        raise InvalidRequestError(
            f"codec {codec.label} is unknown to tier {other.tier!r}, which knows "
            f"{', '.join(one.label for one in known)}; choose one of these, or install the same release on all nodes"
        )

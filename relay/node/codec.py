"""Which codec the rows of a text travel in, and whether the nodes upstream know it."""

from relay import options
from relay.errors import InvalidRequestError, new_request_id
from relay.names import Codec
from relay.node.node import Node
from relay.policy import Policy, deepest_exit
from relay.v1 import relay_pb2 as pb

ASK_S = 1.0
"""How long a text waits for the nodes upstream to say what they know. One that does not answer refuses such rows when
they come."""


async def codec_of(node: Node, number: int, policy: Policy) -> Codec:
    """The codec of this number on the wire, or the node's own for 0.

    Raises `InvalidRequestError` if it is unknown here, or upstream where the policy may ask an exit there, or there are
    no rows to encode.
    """
    codec = options.codec(number) if number else Codec.labelled(node.config.codec)
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
    return codec


def _check(other: pb.Node, codec: Codec) -> None:
    known = [one for one in Codec if one in (other.codecs or [Codec.F32])]
    if codec not in known:
        raise InvalidRequestError(
            f"codec {codec.label} is unknown to tier {other.tier!r}, which knows "
            f"{', '.join(one.label for one in known)}; choose one of these, or install the same release on all nodes"
        )

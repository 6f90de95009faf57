"""From what a caller gives to a `GenerateRequest`. What cannot be sent is refused here, before anything is."""

import uuid
from collections.abc import Mapping

from relay.client.types import GenerateOptions, Prompt
from relay.errors import InvalidRequestError, UnknownExitError
from relay.policy import FixedExit, Policy
from relay.v1 import relay_pb2 as pb

_UINT32 = (1 << 32) - 1
_UINT64 = (1 << 64) - 1


def generate_request(prompt: Prompt, options: GenerateOptions) -> pb.GenerateRequest:
    """The message of one `generate`. Raises `InvalidRequestError` or `UnknownExitError`."""
    max_tokens = options.get("max_tokens", 0)
    if not 0 <= max_tokens <= _UINT32:
        raise InvalidRequestError(f"max_tokens cannot be {max_tokens}; give 0 (no limit but the context) or more")
    request = pb.GenerateRequest(
        session=_utf8(options.get("session") or uuid.uuid4().hex),
        max_tokens=max_tokens,
        logits=options.get("logits", False),
        ignore_stop=options.get("ignore_stop", False),
    )
    _set_prompt(request, prompt)
    if (policy := options.get("policy")) is not None:
        _set_policy(request.policy, policy)
    return request


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = _utf8(prompt)
        return
    turns = [isinstance(item, Mapping) for item in prompt]
    if any(turns) and not all(turns):
        raise InvalidRequestError("a prompt is a list of token ids or turns, not both")
    request.ids.SetInParent()
    for item in prompt:
        if isinstance(item, Mapping):
            if not {"role", "content"} <= item.keys():
                raise InvalidRequestError(f"a turn needs 'role' and 'content', got {sorted(item)}")
            request.chat.turns.add(role=_utf8(item["role"]), content=_utf8(item["content"]))
        else:
            request.ids.ids.append(_token_id(item))


def _token_id(item: int) -> int:
    if item < 0:
        raise InvalidRequestError(f"token id {item} is negative; ids count from 0")
    if item > _UINT32:
        raise InvalidRequestError(f"token id {item} is outside every vocabulary; ids are 32-bit numbers")
    return item


def _set_policy(message: pb.Policy, policy: Policy) -> None:
    if isinstance(policy, FixedExit):
        if not 1 <= policy.exit <= _UINT32:
            raise UnknownExitError(f"exit {policy.exit} is unknown; exits count from 1")
        message.exit = policy.exit
    else:
        if not 0 <= policy.seed <= _UINT64:
            raise InvalidRequestError(f"the seed of a schedule is a 64-bit number from 0 on, got {policy.seed}")
        message.schedule.seed = policy.seed


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"the text is not valid Unicode at character {error.start}; send UTF-8") from None
    return text

"""From what a caller gives to a `GenerateRequest`. What cannot be sent is refused here, before anything is."""

import secrets
import uuid
from collections.abc import Iterable, Mapping

from relay import options as wire_options
from relay.client.types import GenerateOptions, Prompt
from relay.errors import InvalidRequestError
from relay.names import Codec
from relay.options import MOST_LOGPROBS
from relay.policy import Policy
from relay.sampling import GREEDY, NO_PENALTIES, UINT32, Penalties, Sampling
from relay.v1 import relay_pb2 as pb

MOST_TIMEOUT_S = 1e9


def generate_request(prompt: Prompt, options: GenerateOptions) -> pb.GenerateRequest:
    """The message of one `generate`. A seed that sampling needs and the caller left out is drawn here.

    Raises `InvalidRequestError` or one of its kinds.
    """
    if unknown := options.keys() - GenerateOptions.__annotations__.keys():
        known = ", ".join(sorted(GenerateOptions.__annotations__))
        raise InvalidRequestError(f"generate has no option {min(unknown)!r}; it has {known}")
    _check_timeout(options.get("timeout"))
    try:
        return _message(prompt, options)
    except (TypeError, AttributeError, ValueError) as error:  # a value of another type than its option's
        raise InvalidRequestError(f"a value is not what its option takes: {error}") from None


def default_request(policy: Policy | None, codec: str | None) -> pb.SteerRequest:
    """The message of one `steer` of the caller's default. Raises `InvalidRequestError` or one of its kinds."""
    try:
        number = 0 if codec is None else Codec.labelled(codec)
    except ValueError as error:
        raise InvalidRequestError(f"codec: {error}") from None
    return pb.SteerRequest(
        policy=None if policy is None else wire_options.policy_message(policy), codec=pb.Codec.ValueType(number)
    )


def _check_timeout(seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds <= MOST_TIMEOUT_S:
        raise InvalidRequestError(
            f"timeout cannot be {seconds}; give seconds, more than 0 and up to {MOST_TIMEOUT_S:g}"
        )


def _message(prompt: Prompt, options: GenerateOptions) -> pb.GenerateRequest:
    request = pb.GenerateRequest(
        session=_utf8(options.get("session") or uuid.uuid4().hex),
        max_tokens=_count("max_tokens", options.get("max_tokens", 0), "0 (no limit but the context) to 4294967295"),
        logits=options.get("logits", False),
        ignore_stop=options.get("ignore_stop", False),
        samples=_count("samples", options.get("samples", 1), "1 or more", least=1),
        stop=[_utf8(text) for text in _list(options.get("stop", ()))],
        stop_ids=[_token_id(item) for item in options.get("stop_ids", ())],
        keep=options.get("keep", False),
    )
    _set_prompt(request, prompt)
    sampling = _sampling(options)
    if sampling != GREEDY:
        request.sampling.CopyFrom(wire_options.sampling_message(sampling))
    penalties = _penalties(options)
    if penalties != NO_PENALTIES:
        request.penalties.CopyFrom(wire_options.penalties_message(penalties))
    if (wanted := options.get("logprobs")) is not None:
        request.logprobs = _count("logprobs", wanted, f"0 to {MOST_LOGPROBS}", most=MOST_LOGPROBS)
    if (codec := options.get("codec")) is not None:
        request.codec = pb.Codec.ValueType(Codec.labelled(codec))
    if (policy := options.get("policy")) is not None:
        request.policy.CopyFrom(wire_options.policy_message(policy))
    return request


def _sampling(options: GenerateOptions) -> Sampling:
    temperature = options.get("temperature", GREEDY.temperature)
    seed = options.get("seed")
    if seed is None:
        seed = secrets.randbits(64) if temperature != 0 else GREEDY.seed
    return Sampling(
        temperature=temperature,
        top_k=options.get("top_k", GREEDY.top_k),
        top_p=options.get("top_p", GREEDY.top_p),
        min_p=options.get("min_p", GREEDY.min_p),
        seed=seed,
    )


def _penalties(options: GenerateOptions) -> Penalties:
    return Penalties(
        repetition=options.get("repetition_penalty", NO_PENALTIES.repetition),
        presence=options.get("presence_penalty", NO_PENALTIES.presence),
        frequency=options.get("frequency_penalty", NO_PENALTIES.frequency),
    )


def _count(name: str, value: int, expected: str, least: int = 0, most: int = UINT32) -> int:
    if not least <= value <= most:
        raise InvalidRequestError(f"{name} cannot be {value}; give {expected}")
    return value


def _list(given: str | Iterable[str]) -> Iterable[str]:
    return [given] if isinstance(given, str) else given


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = _utf8(prompt)
        return
    if isinstance(prompt, (bytes, bytearray)):
        raise InvalidRequestError("a prompt of bytes is neither text nor token ids; decode it")
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
    if item > UINT32:
        raise InvalidRequestError(f"token id {item} is outside every vocabulary; ids are 32-bit numbers")
    return item


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"the text is not valid Unicode at character {error.start}; send UTF-8") from None
    return text

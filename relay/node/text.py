"""Text to token ids and back, with the bundle's own tokenizer and chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import jinja2.sandbox
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from family.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME, Manifest, verify_files
from relay.errors import InvalidRequestError, PromptTooLongError


class Turn(Protocol):
    """One turn of a conversation."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


class TextCodec:
    """The tokenizer of a bundle. Raises `family.BundleError` for a file that is not as written."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        names = [name for name in (TOKENIZER_NAME, CHAT_TEMPLATE_NAME) if name in manifest.files]
        verify_files(manifest, bundle, names)
        self._tokenizer = Tokenizer.from_file(str(bundle / TOKENIZER_NAME))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._most_tokens = manifest.spec.context - 1
        longest = max(len(entry.encode()) for entry in self._tokenizer.get_vocab())
        self._most_bytes = self._most_tokens * longest
        """No longer text can fit the context."""
        self._template: jinja2.Template | None = None
        if CHAT_TEMPLATE_NAME in names:
            source = (bundle / CHAT_TEMPLATE_NAME).read_text(encoding="utf-8")
            environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            environment.globals["raise_exception"] = _refuse  # templates expect it under this name
            self._template = environment.from_string(source)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Slow for a long one, and made to run in a thread.

        Raises `PromptTooLongError` at once for a text that cannot fit the context.
        """
        return self._encode(text, special=True)

    def encode_chat(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of a conversation, up to where the assistant speaks; as slow as `encode`.

        Raises `InvalidRequestError`, `PromptTooLongError` among its kinds.
        """
        if self._template is None:
            raise InvalidRequestError("this model has no chat template; send text or token ids")
        if len(turns) > self._most_tokens:
            raise PromptTooLongError(
                f"the conversation has {len(turns)} turns; this family's context is {self._most_tokens + 1} tokens, "
                "so send fewer"
            )
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise InvalidRequestError(f"the model's chat template refuses this conversation: {error}") from None
        return self._encode(text, special=False)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        size = len(text.encode())
        if size > self._most_bytes:
            raise PromptTooLongError(
                f"the prompt has {size} bytes; this family's context is {self._most_tokens + 1} tokens, which hold "
                f"{self._most_bytes} bytes at the very most, so send a shorter one"
            )
        # A batch, because `encode` would hold the interpreter's lock and with it the event loop.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        ids: list[int] = encoding.ids
        return ids

    def decoder(self) -> "TextStream":
        """A decoder of one session's new tokens."""
        return TextStream(self._tokenizer)


def _refuse(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)


class TextStream:
    """Text of token ids as they come; a token that leaves a character in pieces gives "" until it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream: Any = DecodeStream(skip_special_tokens=True)

    def step(self, token_id: int) -> str:
        """The text that this token completes."""
        return self._stream.step(self._tokenizer, token_id) or ""

"""Text to token ids and back, with the bundle's own tokenizer and chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2.sandbox
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from family.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME, Manifest, verify_files
from relay.errors import InvalidRequestError


class TextCodec:
    """The tokenizer of a bundle. Raises `family.BundleError` for a file that is not as written."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        names = [name for name in (TOKENIZER_NAME, CHAT_TEMPLATE_NAME) if name in manifest.files]
        verify_files(manifest, bundle, names)
        self._tokenizer = Tokenizer.from_file(str(bundle / TOKENIZER_NAME))
        self._template: jinja2.Template | None = None
        if CHAT_TEMPLATE_NAME in names:
            source = (bundle / CHAT_TEMPLATE_NAME).read_text(encoding="utf-8")
            environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            environment.globals["raise_exception"] = _refuse  # templates expect it under this name
            self._template = environment.from_string(source)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def encode_chat(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the assistant speaks. Raises `InvalidRequestError`."""
        if self._template is None:
            raise InvalidRequestError("this model has no chat template; send text or token ids")
        try:
            text = self._template.render(messages=list(turns), add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise InvalidRequestError(f"the model's chat template refuses this conversation: {error}") from None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
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

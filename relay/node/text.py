"""Text to token ids and back, with the bundle's own tokenizer and chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import jinja2
from tokenizers import Tokenizer

from family.errors import BundleError
from family.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME, Manifest, verify_files
from relay.errors import InvalidRequestError, PromptTooLongError
from relay.node.template import chat_template, render_chat

_BROKEN = "\ufffd"
"""What decoding gives for bytes that are no whole character."""


class Turn(Protocol):
    """One turn of a conversation."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


class TextCodec:
    """The tokenizer of a bundle. Raises `family.BundleError` for a file that is not as written, or unreadable."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        names = [name for name in (TOKENIZER_NAME, CHAT_TEMPLATE_NAME) if name in manifest.files]
        verify_files(manifest, bundle, names)
        self._tokenizer = _read_tokenizer(bundle / TOKENIZER_NAME)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._most_tokens = manifest.spec.context - 1
        longest = max(len(entry.encode()) for entry in self._tokenizer.get_vocab())
        self._most_bytes = self._most_tokens * longest
        """No longer text can fit the context."""
        self._template: jinja2.Template | None = None
        if CHAT_TEMPLATE_NAME in names:
            self._template = _read_template(bundle / CHAT_TEMPLATE_NAME)
        self._special_tokens = manifest.special_tokens

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
            text = render_chat(self._template, messages, self._special_tokens)
        except Exception as error:  # a template is a program of the bundle's, and fails as it likes
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

    def decoder(self, prompt_ids: Sequence[int]) -> "TextStream":
        """A decoder of the tokens that follow a prompt."""
        return TextStream(self._tokenizer, prompt_ids)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(
            f"{path}: the installed tokenizers cannot read it ({error}); export the bundle again, or upgrade tokenizers"
        ) from None


def _read_template(path: Path) -> jinja2.Template:
    try:
        return chat_template(path.read_text(encoding="utf-8"))
    except jinja2.TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {error.message}"
    except UnicodeDecodeError as error:
        problem = str(error)
    raise BundleError(f"{path}: not a chat template ({problem}); correct the base's template and export it again")


class TextStream:
    """Text of token ids as they come; a token that leaves a character in pieces gives "" until it is whole.

    What a token adds depends on those before it (many tokenizers write a word's space with the word, except at the
    start of a text), so it is what decoding them together gives beyond decoding those before. The library's own
    `DecodeStream` fails where the two differ in their beginning, and cannot be asked for the rest.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._before = list(prompt_ids)
        """Ids whose text is out, as far back as the newest piece's."""
        self._shown = len(self._decode(self._before).rstrip(_BROKEN))
        """Characters of their text; a character that the prompt broke off is to come."""
        self._pending: list[int] = []

    def step(self, token_id: int, *, last: bool) -> str:
        """The text that this token completes. With the last one comes what was held back: the pieces of a character
        that never became whole, each as U+FFFD.
        """
        self._pending.append(token_id)
        text = self._decode(self._before + self._pending)
        added = text[self._shown :]
        if not last and (not added or text.endswith(_BROKEN)):
            return ""
        self._before, self._pending = self._pending, []
        self._shown = len(self._decode(self._before))
        return added

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

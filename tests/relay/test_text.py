"""Text to ids and back at the entry node: what chat templates find, and text as its tokens come."""

import random
from datetime import datetime
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer, decoders, models

from family.errors import BundleError
from family.manifest import TOKENIZER_NAME, load_manifest
from relay.node.template import chat_template, render_chat
from relay.node.text import TextCodec, TextStream
from tests.relay.bundles import with_chat_template, with_file

SAID = [{"role": "user", "content": "tea & <café>"}, {"role": "assistant", "content": "no"}]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>tea & <café></s>"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% if tools is none and documents is none %}none{% endif %}", "none"),
        ("{{ messages[0].content | tojson }}", '"tea & <café>"'),
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% for m in messages %}{% generation %}{{ m.role }},{% endgeneration %}{% endfor %}", "user,assistant,"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
        ("{% if true %}\n  a\n  {% endif %}\n", "  a\n"),
    ],
)
def test_a_template_finds_what_it_finds_in_transformers(source: str, text: str) -> None:
    assert render_chat(chat_template(source), SAID, {"bos_token": "<s>", "eos_token": "</s>"}) == text


@pytest.mark.parametrize("source", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}"])
def test_a_template_stays_in_its_sandbox(source: str) -> None:
    with pytest.raises(jinja2.sandbox.SecurityError):
        render_chat(chat_template(source), SAID, {})


def test_a_template_that_cannot_be_read_is_the_bundles_error(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_chat_template(tiny_bundle, tmp_path, "{% for m in messages %}\n{% endif %}")
    with pytest.raises(BundleError, match=r"chat_template.jinja: not a chat template \(line 2: .*export it again"):
        TextCodec(bundle, load_manifest(bundle))


def test_a_tokenizer_that_cannot_be_read_is_the_bundles_error(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_file(tiny_bundle, tmp_path, TOKENIZER_NAME, '{"version": "9.0"}')
    with pytest.raises(BundleError, match=r"tokenizer.json: the installed tokenizers cannot read it"):
        TextCodec(bundle, load_manifest(bundle))


def words() -> Tokenizer:
    """A tokenizer that writes a word's space with the word, and the bytes of what it has no word for."""
    vocabulary = {"<unk>": 0, "▁the": 1, "▁tide": 2, "s": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


THE, TIDE, S, END = 1, 2, 3, 260
SEA = [4 + byte for byte in "海".encode()]


@pytest.mark.parametrize(
    ("prompt", "ids", "pieces"),
    [
        ([THE], [TIDE, S], [" tide", "s"]),
        ([THE, END], [TIDE, END, THE], [" tide", "", " the"]),
        ([THE], [*SEA, S], ["", "", "海", "s"]),
        ([THE, *SEA[:1]], [*SEA[1:], TIDE], ["", "海", " tide"]),
        ([THE], [*SEA, *SEA, S], ["", "", "海", "", "", "海", "s"]),
        ([THE], [TIDE, *SEA[:2]], [" tide", "", "\ufffd\ufffd"]),
        ([THE], [TIDE, *SEA[:2], END], [" tide", "", "", "\ufffd\ufffd"]),
        ([THE], [*SEA, SEA[0], S], ["", "", "海", "", "\ufffd\ufffd\ufffds"]),
    ],
)
def test_text_comes_as_it_follows_the_prompt_and_none_is_held_back_at_the_end(
    prompt: list[int], ids: list[int], pieces: list[str]
) -> None:
    stream = TextStream(words(), prompt)
    assert [stream.step(token, last=i == len(ids)) for i, token in enumerate(ids, 1)] == pieces


def test_all_pieces_together_are_the_text_of_all_ids(tiny_bundle: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bundle / TOKENIZER_NAME))
    draw = random.Random(5)
    for _ in range(50):
        prompt, ids = ([draw.randrange(512) for _ in range(draw.randint(1, 40))] for _ in range(2))
        stream = TextStream(tokenizer, prompt)
        text = "".join(stream.step(token, last=i == len(ids)) for i, token in enumerate(ids, 1))
        assert tokenizer.decode(prompt).rstrip("\ufffd") + text == tokenizer.decode(prompt + ids)

"""Text to ids and back at the entry node: what chat templates find, and text as its tokens come."""

from datetime import datetime
from pathlib import Path

import jinja2
import pytest

from family.errors import BundleError
from family.manifest import TOKENIZER_NAME, load_manifest
from relay.node.template import chat_template, render_chat
from relay.node.text import TextCodec
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

"""Chat templates: what renders a conversation to the text that a model was trained on.

They are written for `transformers`, so they find here what they find there: its names, filters and tags.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the model says, for training; here it only renders what is inside."""

    tags = {"generation"}  # noqa: RUF012  declared so in jinja2

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The tag's body, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def chat_template(source: str) -> jinja2.Template:
    """A template in a sandbox. Raises `jinja2.TemplateSyntaxError`, which names the line."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def render_chat(
    template: jinja2.Template, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, str]
) -> str:
    """The text of a conversation, up to where the assistant speaks.

    `special_tokens` are the texts that a template may name: `bos_token`, `eos_token`, ... Raises whatever the template
    does: `jinja2.TemplateError` where it refuses the conversation.
    """
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
    return template.render({**special_tokens, **given})


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; jinja2's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)

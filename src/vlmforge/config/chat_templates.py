"""The chat templates that ship with vlmforge, by the name that `model.chat_template` gives them.

`builtin:chatml` is ChatML with tools. The others are the prompt formats that Megatron's vision-language models were
trained with. They differ from the models' own templates: no system turn that nobody wrote, no date, and in the ChatML
ones the line end after an end marker is trained too. Like Megatron, they refuse an empty turn and an image in an
assistant's turn.

This file holds text and what is trained of it; it renders nothing. A template is recognised by its text, so that an
exported tokenizer keeps its rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

# What Megatron's --force-system-message writes in its Qwen formats.
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what is trained of an assistant's turn.

    Attributes:
        text: Jinja.
        trains_line_end: whether the line end after the end marker is trained.
    """

    text: str
    trains_line_end: bool = False


# A turn's content is a string, or parts of which an image's stands for the tokenizer's image token, between the tokens
# that begin and end one in Qwen-VL's layout, where the tokenizer has them.
_CONTENT = """\
{%- macro write(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content -%}
{%- for part in content -%}
{%- if part.type == 'text' -%}{{- part.text -}}
{%- else -%}
{{- vision_bos_token | default('') -}}
{%- if part.type == 'video' -%}{{- video_token | default(image_token | default('<image>')) -}}
{%- else -%}{{- image_token | default('<image>') -}}
{%- endif -%}
{{- vision_eos_token | default('') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

_CHATML = (
    _CONTENT
    + """\
{%- if tools %}
{{- '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{{- write(message.content) }}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
)

_CHECKS = """\
{%- macro check(message) -%}
{%- if message.role not in ('system', 'user', 'assistant') -%}
{{- raise_exception('it knows no role ' + message.role) -}}
{%- endif -%}
{%- if not (write(message.content) | trim) -%}
{{- raise_exception('a turn of role ' + message.role + ' is empty') -}}
{%- endif -%}
{%- if message.role == 'assistant' and '<image>' in write(message.content) -%}
{{- raise_exception('an image stands in a turn of the assistant') -}}
{%- endif -%}
{%- endmacro -%}
"""

_BOS = """\
{%- if not bos_token -%}{{- raise_exception('it begins with BOS, which the tokenizer does not have') -}}{%- endif -%}
{{- bos_token -}}
"""

_LLAMA3 = (
    _CONTENT
    + _CHECKS
    + _BOS
    + """\
{%- for message in messages %}
{{- check(message) }}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + write(message.content) | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
)

_PLAIN_CHATML_TURNS = """\
{%- for message in messages %}
{{- check(message) }}
{{- '<|im_start|>' + message.role + '\\n' + write(message.content) + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_FORCED_SYSTEM = f"""\
{{{{- '<|im_start|>system\\n{QWEN_SYSTEM}<|im_end|>\\n' }}}}
{{%- if messages and messages[0].role == 'system' -%}}{{%- set messages = messages[1:] -%}}{{%- endif -%}}
"""

# No generation prompt: the space before an answer is trained, and goes into one token with the answer's first word in
# most tokenizers. Megatron prompts with that space, and so with a token that it did not train on.
_MISTRAL = (
    _CONTENT
    + _CHECKS
    + _BOS
    + """\
{%- if messages and messages[0].role == 'system' -%}{%- set messages = messages[1:] -%}{%- endif -%}
{%- for message in messages %}
{{- check(message) }}
{%- if message.role == 'user' %}
{{- '[INST] ' + write(message.content) + ' [/INST]' }}
{%- elif message.role == 'assistant' %}
{{- ' ' + write(message.content) + eos_token }}
{%- else %}
{{- raise_exception('it passes over a system turn at the start only') }}
{%- endif %}
{%- endfor %}
"""
)

_PLAIN_CHATML = ChatTemplate(_CONTENT + _CHECKS + _PLAIN_CHATML_TURNS, trains_line_end=True)

CHAT_TEMPLATES: Mapping[str, ChatTemplate] = {
    "builtin:chatml": ChatTemplate(_CHATML),
    "builtin:llama3": ChatTemplate(_LLAMA3),
    "builtin:llama3p1": ChatTemplate(_LLAMA3),
    "builtin:qwen2p0": _PLAIN_CHATML,
    "builtin:qwen2p5": _PLAIN_CHATML,
    "builtin:qwen2p5_forced_system": ChatTemplate(
        _CONTENT + _CHECKS + _FORCED_SYSTEM + _PLAIN_CHATML_TURNS, trains_line_end=True
    ),
    "builtin:nvlm_yi_34b": ChatTemplate(_CONTENT + _CHECKS + _BOS + _PLAIN_CHATML_TURNS, trains_line_end=True),
    "builtin:mistral": ChatTemplate(_MISTRAL),
}

# For models that go on with a text: a tokenizer borrowed from a chat model would wrap every prompt in its turns.
NO_TEMPLATE = "builtin:none"

_TRAINING_LINE_ENDS = frozenset(template.text for template in CHAT_TEMPLATES.values() if template.trains_line_end)


def trains_line_end(template: object) -> bool:
    """Whether the line end after an assistant's end marker is trained: only in templates of ours that say so.

    Args:
        template: the text of a tokenizer's chat template, or whatever else stands in its place.
    """
    return isinstance(template, str) and strip_image_words(template) in _TRAINING_LINE_ENDS


_WORDS = re.compile(r"\{%- set vision_bos_token, image_token, vision_eos_token = .*? -%\}\n")


def with_image_words(template: str, start: str, word: str, end: str) -> str:
    """A template that writes a picture as these three words, whatever the tokenizer calls special."""
    words = ", ".join(json.dumps(text) for text in (start, word, end))
    return f"{{%- set vision_bos_token, image_token, vision_eos_token = {words} -%}}\n{template}"


def strip_image_words(template: str) -> str:
    """The template as it was before `with_image_words`."""
    return _WORDS.sub("", template, count=1)

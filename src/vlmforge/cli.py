"""From argv to a command: finds the verb, splits arguments from overrides, and turns errors into exit codes.

Nothing is imported for a verb but its own module, and that only once the words around it make sense.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from vlmforge import __version__
from vlmforge.commands.request import ARGUMENTS, Request
from vlmforge.commands.stopping import sigterm_interrupts
from vlmforge.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    ConfigError,
    Problem,
    VlmforgeError,
    nearest,
    one_of,
)

# As the shell names a program that SIGPIPE ended: the reader of standard output left before all was written.
EXIT_BROKEN_PIPE = 141


@dataclass(frozen=True)
class Verb:
    """One command.

    Attributes:
        module: has `run(request) -> int`.
        purpose: one line for `--help`.
        arguments: its own arguments, with one line each.
        examples: command lines without `vlmforge`.
        takes_overrides: whether it has a recipe to override.
    """

    module: str
    purpose: str
    arguments: Mapping[str, str]
    examples: tuple[str, ...]
    takes_overrides: bool = True


RECIPE = "a name from `vlmforge recipes`, or the path of a YAML file"
WORLD_SIZE = "number of ranks to check for; default: torchrun's, else what the recipe asks for"
CHECK_DATA = "false: leave the data files alone"

VERBS: Mapping[str, Verb] = {
    "recipes": Verb(
        "vlmforge.commands.recipes",
        "list the recipes: name, model, stage, mesh and what they do",
        {},
        ("recipes",),
        takes_overrides=False,
    ),
    "show": Verb(
        "vlmforge.commands.show",
        "print a recipe with everything it is composed of, and where each value came from",
        {"recipe": RECIPE},
        (
            "show recipe=quickstart",
            "show recipe=smollm2/gsm8k_sft stage.max_steps=10",
            "show recipe=smollm2/gsm8k_lora > my.yaml",
        ),
    ),
    "validate": Verb(
        "vlmforge.commands.validate",
        "check a recipe completely without its weights, and list every error",
        {"recipe": RECIPE, "world_size": WORLD_SIZE, "check_data": CHECK_DATA},
        (
            "validate recipe=quickstart",
            "validate recipe=smollm2/gsm8k_sft world_size=4",
            "validate recipe=my.yaml check_data=false stage.seq_len=2048",
        ),
    ),
    "preview": Verb(
        "vlmforge.commands.preview",
        "show what a model will be trained on: tokens, labels and the borders of packed samples",
        {"recipe": RECIPE, "html": "write the preview to this HTML file as well"},
        ("preview recipe=quickstart", "preview recipe=smollm2/gsm8k_sft html=preview.html"),
    ),
    "train": Verb(
        "vlmforge.commands.train",
        "validate a recipe, start its ranks, train, save and export",
        {"recipe": RECIPE, "check_data": CHECK_DATA},
        (
            "train recipe=quickstart",
            "train recipe=smollm2/gsm8k_sft scale=tiny",
            "train recipe=llama3p1_8b/pretrain_text launch=slurm launch.num_nodes=2 launch.processes_per_node=8",
            "train recipe=quickstart parallelism.dp_shard=2 run.name=two",
        ),
    ),
    "parity": Verb(
        "vlmforge.commands.parity",
        "check that a mesh trains the same model as one process and as plain transformers",
        {"recipe": RECIPE, "output": "keep the reduced model and what was recorded in this folder"},
        (
            "parity recipe=quickstart parallelism.dp_shard=2",
            "parity recipe=quickstart parallelism.dp_shard=2 output=parity",
            "parity recipe=qwen2p5_0p5b/gsm8k_sp2 parallelism.cp=2",
        ),
    ),
    "generate": Verb(
        "vlmforge.commands.generate",
        "answer prompts with a checkpoint, or with the model of a recipe",
        {
            "checkpoint": "a run folder, a step folder, a Hugging Face or PEFT folder, or a hub id",
            "recipe": RECIPE,
            "prompt": "a prompt, taken verbatim; may be given several times",
            "image": "a picture to ask about, before the prompt; may be given several times",
            "video": "a film to ask about, in the same way",
            "input": "a JSONL file of prompts",
            "output": "the JSONL file of answers",
        },
        (
            "generate checkpoint=runs/quickstart image=runs/quickstart/example.png 'prompt=Which number?'",
            "generate checkpoint=runs/dates 'prompt=Write 3 May 2021 as an ISO date.'",
            "generate checkpoint=runs/dates input=prompts.jsonl output=answers.jsonl",
            "generate recipe=quickstart scale=tiny prompt=hello stage.generation.max_new_tokens=8",
        ),
    ),
    "convert": Verb(
        "vlmforge.commands.convert",
        "join a vision tower and a language model, or go from and to the files of published models",
        {
            "tower": "folder or hub id of a vision tower, or random for one with new weights",
            "language_model": "folder or hub id of a language model",
            "recipe": "whose model the parts are joined to; or choose one with model=",
            "checkpoint": "a published model's folder or hub id, or with layout a stitched one: run, folder or hub id",
            "layout": "nvlm_d or nemotron_nano_vl: write the files as that published model has them",
            "output": "the folder to write",
        },
        (
            "convert model=mistral_clip tower=clip language_model=mistral output=stitched/mistral_clip",
            "convert recipe=pretrain.yaml tower=random language_model=lm output=stitched/small",
            "convert model=nvlm_d_72b checkpoint=nvidia/NVLM-D-72B output=stitched/nvlm_d_72b",
            "convert checkpoint=runs/nvlm layout=nvlm_d output=published",
        ),
    ),
}

OPTIONS = """options
  --help      this text; `vlmforge VERB --help` explains a verb
  --version   print the version
  --debug     show a traceback for every error"""

EXIT_CODES = """exit codes
  0    done
  1    failed: no memory, a loss that is no number, ranks that were lost or hang, or, with a traceback, a bug in
       vlmforge; of parity, a difference beyond its bound
  2    the recipe or the command is wrong
  3    data
  4    a checkpoint
  130  interrupted; train has saved, and the same command goes on from there"""

OVERRIDES = """overrides
  section.key=value   set any key, for example stage.optimizer.lr=1e-4 (docs/config-keys.md lists all)
  ~section.key        set a key back to its default
  group=option        choose a file of model, parallelism, data, stage, launch or scale; scale=tiny makes
                      any recipe run on two CPU cores without a download
  Text with spaces or `=` needs quotes twice: 'model.pretrained="/data/my model"'"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with sigterm_interrupts():
            code = _run([word for word in words if word != "--debug"], debug)
    except VlmforgeError as error:
        _print_error(error, with_traceback=debug)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        if _has_reader():
            traceback.print_exc()
            return EXIT_BUG
        code = EXIT_BROKEN_PIPE
    except Exception:
        traceback.print_exc()
        return EXIT_BUG
    return code if _flush_output() else code or EXIT_BROKEN_PIPE


def _has_reader() -> bool:
    """Whether standard output still goes somewhere: no, once `head` or a pager has seen enough."""
    poll = select.poll()
    # No event is asked for: that the other end is closed is always told.
    poll.register(sys.stdout, 0)
    return not poll.poll(0)


def _flush_output() -> bool:
    """Write out what is printed; False where nobody reads it, and then what is left is dropped without a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain of the rest when it closes the file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _print_error(error: VlmforgeError, *, with_traceback: bool) -> None:
    """One message for all ranks: under torchrun only the first one speaks, unless the problem is another's own."""
    if error.is_on_every_rank and os.environ.get("RANK", "0") != "0":
        return
    if with_traceback:
        traceback.print_exc()
    print(error.report(), file=sys.stderr)


def _run(words: list[str], debug: bool) -> int:
    text = _find_text(words)
    if text is not None:
        print(text)
        return EXIT_OK
    request = parse_request(words, debug)
    return import_module(VERBS[request.verb].module).run(request)


def _find_text(words: list[str]) -> str | None:
    """Help or version, where the words ask for them."""
    if not words or words[0] in ("--help", "-h", "help"):
        return _help()
    if words[0] == "--version":
        return f"vlmforge {__version__}"
    if words[0] in VERBS and ("--help" in words or "-h" in words):
        return _help_verb(words[0])
    return None


def parse_request(words: Sequence[str], debug: bool = False) -> Request:
    """Split a command line into verb, arguments and overrides.

    Raises:
        ConfigError: the verb does not exist, or a word is neither an argument of it nor an override.
    """
    name, *rest = words
    if name not in VERBS:
        near = nearest(name, VERBS)
        raise ConfigError(
            Problem(
                what=f"{name} is not a command; there is {one_of(list(VERBS))}",
                where=f"command line: {' '.join(words)}",
                fix=f"vlmforge {near[0]}" if near else "vlmforge --help",
            )
        )
    arguments: dict[str, list[str]] = {}
    overrides: list[str] = []
    problems: list[Problem] = []
    for word in rest:
        key, _, value = word.partition("=")
        problem = _check_word(name, word, key)
        if problem is not None:
            problems.append(problem)
        elif key in ARGUMENTS:
            arguments.setdefault(key, []).append(value)
        else:
            overrides.append(word)
    if problems:
        raise ConfigError(problems)
    return Request(name, arguments, tuple(overrides), debug)


def _check_word(name: str, word: str, key: str) -> Problem | None:
    verb = VERBS[name]
    where = f"command line: {word}"
    if word.startswith("-"):
        fix = f"{word.lstrip('-').replace('-', '_')}" + ("" if "=" in word else "=VALUE")
        return Problem(f"{word}: arguments are written key=value, without dashes", where, fix)
    if key in ARGUMENTS and key not in verb.arguments:
        own = one_of(list(verb.arguments)) if verb.arguments else "none"
        return Problem(f"{key} is not an argument of `vlmforge {name}`; it has {own}", where, f"remove {word}")
    if "=" not in word and not word.startswith("~"):
        return _word_without_value(verb, word, where)
    if key not in ARGUMENTS and not verb.takes_overrides:
        return Problem(f"{word}: `vlmforge {name}` has nothing to override", where, f"remove {word}")
    return None


def _word_without_value(verb: Verb, word: str, where: str) -> Problem:
    """A bare word: most likely the value of the verb's first argument."""
    if word in ARGUMENTS:
        return Problem(f"{word} has no value", where, f"{word}=VALUE")
    first = next(iter(verb.arguments), None)
    fix = f"{first}={word}" if first else f"remove {word}"
    return Problem(f"{word}: arguments and overrides are written key=value", where, fix)


def _help() -> str:
    width = max(len(name) for name in VERBS)
    verbs = "\n".join(f"  {name.ljust(width)}  {verb.purpose}" for name, verb in VERBS.items())
    examples = "\n".join(f"  vlmforge {verb.examples[-1]}" for verb in VERBS.values())
    return (
        "vlmforge trains language models from declarative recipes.\n\n"
        f"usage: vlmforge VERB [argument=value ...] [override ...]\n\nverbs\n{verbs}\n\n"
        f"{OVERRIDES}\n\nexamples\n{examples}\n\n{OPTIONS}\n\n{EXIT_CODES}"
    )


def _help_verb(name: str) -> str:
    verb = VERBS[name]
    width = max((len(argument) for argument in verb.arguments), default=0)
    parts = [f"vlmforge {name}: {verb.purpose}"]
    if verb.arguments:
        lines = [f"  {argument.ljust(width)}  {doc}" for argument, doc in verb.arguments.items()]
        parts.append("arguments\n" + "\n".join(lines))
    if verb.takes_overrides:
        parts.append(OVERRIDES)
    parts.append("examples\n" + "\n".join(f"  vlmforge {example}" for example in verb.examples))
    parts.append(EXIT_CODES)
    return "\n\n".join(parts)

"""The senses of WordNet 3.0, out of the one text file that Debian's `dict-wn` carries.

An entry of that file is a headword at the margin and, indented by four columns, its senses, wrapped at 65:

    zymolysis
        n 1: a process in which an agent causes an organic substance to
             break down into simpler substances [syn: {zymosis},
             {zymolysis}]

A sense that several headwords share stands below each of them in full. Here it becomes one text, so that nothing is
trained on twice and nothing that is held out stands in the training part under another word:

    zymosis, zymolysis (noun): a process in which an agent causes an organic substance to break down into simpler ...

This file reads no file and writes none: `fetch_assets.py` does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}
SENSE = re.compile(r" {4}(?:(n|v|adj|adv) )?\d+: (.*)")
CONTINUATION = " " * 5
SYNONYMS = re.compile(r" ?\[syn: (.*?)\]")
ANTONYMS = re.compile(r" ?\[ant: .*?\]")
WORD = re.compile(r"\{(.*?)\}")
LICENCE = re.compile(r"^This software and database is.*?agrees to preserve same\.", re.MULTILINE | re.DOTALL)
DASH = re.compile(r" ?-- ?")


@dataclass(frozen=True)
class Sense:
    """One meaning and the words that have it.

    Attributes:
        words: in WordNet's order.
        part_of_speech: noun, verb, adjective or adverb.
        definition: with its examples, without synonyms and antonyms.
    """

    words: tuple[str, ...]
    part_of_speech: str
    definition: str

    @property
    def text(self) -> str:
        """The sense as a line to train on."""
        return f"{', '.join(self.words)} ({self.part_of_speech}): {self.definition}"


def parse_senses(dictionary: str) -> list[Sense]:
    """Every sense once, in the order of the dictionary; lines that belong to no sense are no entry's."""
    found = (_parse_sense(*unwrapped) for unwrapped in _unwrap(dictionary))
    return list(dict.fromkeys(found))


def _unwrap(dictionary: str) -> Iterator[tuple[str, str, str]]:
    """Headword, abbreviated part of speech and the text of every sense, in one line each."""
    headword = part = text = ""
    for line in [*dictionary.split("\n"), ""]:
        if text and line.startswith(CONTINUATION):
            # Lines are wrapped at spaces, and after the hyphen of a compound.
            text += line.strip() if re.search(r"\w-$", text) else " " + line.strip()
            continue
        if text:
            yield headword, part, text
            text = ""
        match = SENSE.fullmatch(line)
        if match:
            # The second and later senses of a part of speech leave it out.
            part, text = match[1] or part, match[2].strip()
        elif not line.startswith(" "):
            headword = line


def _parse_sense(headword: str, part: str, text: str) -> Sense:
    synonyms = SYNONYMS.search(text)
    words = tuple(WORD.findall(synonyms[1])) if synonyms else (headword,)
    # Antonyms belong to a word, not to a sense: with them a shared sense would differ between its headwords.
    definition = ANTONYMS.sub("", SYNONYMS.sub("", text))
    # A dash at the end of a line hides whether a space stood beside it, and headwords wrap a sense differently.
    return Sense(words, PARTS_OF_SPEECH[part], DASH.sub("--", definition))


def find_licence(dictionary: str) -> str:
    """The notice that must stay with every copy, as the dictionary itself carries it."""
    notice = LICENCE.search(dictionary)
    assert notice is not None, "a dictionary without the notice has other senses too"
    return "".join(f"{line.rstrip()}\n" for line in notice[0].splitlines())


def split_senses(senses: list[Sense], num_held_out: int) -> tuple[list[Sense], list[Sense]]:
    """Training part and held-out tail, in the order of the hash of the definition.

    That order is as good as shuffled and the same everywhere, and senses with one and the same definition ("a variety
    of aster") stand next to each other: those at the border all go to the training part.
    """
    ordered = sorted(senses, key=lambda sense: (_hash(sense.definition), sense.text))
    border = len(ordered) - num_held_out
    while 0 < border < len(ordered) and ordered[border - 1].definition == ordered[border].definition:
        border += 1
    return ordered[:border], ordered[border:]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

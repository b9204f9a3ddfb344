"""Senses out of the text of a dictionary."""

import wordnet

DICTIONARY = """\

00-database-info
This file was converted from the original database on:
          2021-08-15T12:48:42
    WordNet (r): A Lexical Database
zymolysis
    n 1: a process in which an organic substance breaks down into
         simpler substances; "the zymolysis of sugar--slow at
         first" [syn: {zymosis}, {zymolysis}]
zymosis
    n 1: a process in which an organic substance breaks down into
         simpler substances; "the zymolysis of sugar--
         slow at first" [syn: {zymosis}, {zymolysis}]
    2: (medicine) the spread of a disease [ant: {health}]
    v 1: act in a twelve-
         tone way
zoo
    n 1: a variety of aster
zoon
    n 1: a variety of aster
"""


def test_a_sense_is_one_line_and_stands_once():
    assert [sense.text for sense in wordnet.parse_senses(DICTIONARY)] == [
        "zymosis, zymolysis (noun): a process in which an organic substance breaks down into simpler substances; "
        '"the zymolysis of sugar--slow at first"',
        "zymosis (noun): (medicine) the spread of a disease",
        "zymosis (verb): act in a twelve-tone way",
        "zoo (noun): a variety of aster",
        "zoon (noun): a variety of aster",
    ]


def test_no_definition_is_in_both_parts_wherever_the_border_falls():
    senses = wordnet.parse_senses(DICTIONARY)
    for num_held_out in range(len(senses) + 1):
        train, held_out = wordnet.split_senses(senses, num_held_out)
        assert sorted(sense.text for sense in train + held_out) == sorted(sense.text for sense in senses)
        assert not {sense.definition for sense in train} & {sense.definition for sense in held_out}
        assert num_held_out - 1 <= len(held_out) <= num_held_out

"""Undo the tokenised forms in which old corpora are published, so that a model sees text as people write it.

WikiText splits punctuation from words and writes `@-@`, `@,@`, `@.@` inside words and numbers, and `<unk>` for rare
words; LAMBADA has Penn Treebank quotes (two backticks, two apostrophes) and split contractions. Which spaces the
original had is a guess (double quotes are taken to open and close in turn); the result reads as text does.
"""

import re

_INNER = re.compile(r" @([-,.])@ ")
_BEFORE = re.compile(r" ([,.;:!?%)\]}]|n't\b|'(?:s|re|ve|ll|d|m|t)\b)")
_AFTER = re.compile(r"([(\[{$£€]) ")
_SINGLE_QUOTED = re.compile(r"(?<=\s)' ([^']*?) '(?=[\s,.;:!?)])")
_PLURAL_POSSESSIVE = re.compile(r"(?<=\ws) '(?= )")
_RANGE = re.compile(r"(\d) ([\u2013\u2014]) (\d)")  # dashes
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[^a-z])|(?<=[.!?][\")]) (?=[^a-z])")
_HEADING = re.compile(r"^\s*((?:= )+)(.*?)((?: =)+)\s*$")
UNKNOWN = "<unk>"


def looks_tokenised(text: str) -> bool:
    """Whether most commas stand apart from the word before them, as in tokenised corpora."""
    return 2 * text.count(" , ") > text.count(",")


def detokenise(line: str) -> str:
    """One line of a tokenised corpus as plain text."""
    line = line.strip().replace("``", '"').replace("''", '"')
    line = _attach_quotes(_INNER.sub(r"\1", line))
    line = _SINGLE_QUOTED.sub(r"'\1'", line)
    line = _AFTER.sub(r"\1", _BEFORE.sub(r"\1", line))
    return _RANGE.sub(r"\1\2\3", _PLURAL_POSSESSIVE.sub("'", line))


def drop_unknown(line: str) -> str:
    """A detokenised line without the sentences that hold `<unk>`."""
    if UNKNOWN not in line:
        return line
    return " ".join(s for s in _SENTENCE_END.split(line) if UNKNOWN not in s)


def _attach_quotes(line: str) -> str:
    """Double quotes that stand apart, joined to the word after them and before them in turn."""
    parts = f" {line} ".split(' " ')
    text = parts[0]
    for index, part in enumerate(parts[1:]):
        text += (' "' if index % 2 == 0 else '" ') + part
    return text.strip()


def heading_level(line: str) -> int:
    """1 for WikiText's ` = Title = `, 2 for ` = = Section = = `, ...; 0 for text."""
    match = _HEADING.match(line)
    return match.group(1).count("=") if match else 0


def wikitext_articles(text: str) -> list[str]:
    """WikiText's articles as plain text: sentences with `<unk>` dropped, and headings that have no text left."""
    articles: list[str] = []
    paragraphs: list[str] = []
    pending: list[tuple[int, str]] = []  # headings, with their levels, that have no text yet
    for line in text.split("\n"):
        level = heading_level(line)
        if level == 1 and paragraphs:
            articles.append("\n\n".join(paragraphs))
            paragraphs = []
        if level:
            pending = [(lv, title) for lv, title in pending if lv < level]
            title = _HEADING.sub(r"\2", line)
            if UNKNOWN not in title:
                pending.append((level, detokenise(title)))
            continue
        plain = drop_unknown(detokenise(line))
        if plain:
            paragraphs += [title for _, title in pending]
            pending = []
            paragraphs.append(plain)
    if paragraphs:
        articles.append("\n\n".join(paragraphs))
    return articles

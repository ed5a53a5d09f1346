"""Plain words, checked: how long sentences are, and which words are ours and not the field's."""

from __future__ import annotations

import re

MEAN, MOST = 25.0, 40
"""Words a sentence may have: on average over a page, and at most."""

# What edgepath used to say, and what the field says.
DIALECT = {
    r"\blooks\b": "stain-scanner combinations",
    r"\bplaces\b": "locations",
    r"\btwins?\b": "matching tile",
    r"\bproducts\b": "linear layers, matrix products",
    r"\bscores\b": "attention logits; or the metric's name",
    r"\bshares\b": "attention weights; fractions",
    r"\bother parts\b": "parameters that differ",
    r"\bparts\b": "weight read-back",
    r"\bproofs?\b": "layer-by-layer check",
    r"\bproved\b": "checked layer by layer",
    r"\bspare the class token\b": "keep it in floating point",
    r"\bcut products\b": "split projections",
    r"\bnudged?\b": "perturbed",
    r"\btold by\b": "given by",
    r"\bheld against\b": "compared with",
    r"\basked for\b": "required",
    r"\bcontenders?\b": "candidates",
    r"\brivals?\b": "baselines",
    r"\bpeers\b": "other tools",
    r"\belsewhere\b": "earlier results; another place",
    r"\bshowing\b": "tables",
}


def plain(markdown: str) -> str:
    """Return the prose of a Markdown page: code, tables, directives, links' targets and HTML left out."""
    text = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)
    text = re.sub(r"^:{3,}.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1\s*$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(?: {4}|\t)(?! *[-*0-9]).*$", "", text, flags=re.MULTILINE)  # code; not the text of a list
    text = re.sub(r"<[^>\n]+>", "", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\{[\w:]+\}`[^`]*`", "it", text)
    text = re.sub(r"^\([\w-]+\)=$", "", text, flags=re.MULTILINE)
    text = re.sub(r"``[^`]+``", "code", text)
    return re.sub(r"`[^`]*`", "code", text)


def sentences(prose: str) -> list[str]:
    """Return the sentences of prose; a heading, an item of a list and a paragraph end one."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)|^#.*$", prose, flags=re.MULTILINE)
    found = []
    for block in blocks:
        line = re.sub(r"^\s*(?:[-*]|\d+\.)\s", "", " ".join(block.split()))
        found += re.split(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9a-z])", line)
    return [sentence for sentence in found if words(sentence)]


def words(sentence: str) -> int:
    """Return how many words a sentence has; figures count, lone signs do not."""
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def dialect(prose: str) -> list[str]:
    """Return the words of `prose` that the field does not use, and what it says."""
    return [
        f'"{found.group(0)}": say {better} (... {prose[max(0, found.start() - 30) : found.end() + 20]!r})'
        for pattern, better in DIALECT.items()
        for found in re.finditer(pattern, prose, flags=re.IGNORECASE)
    ]


def problems(prose: str) -> list[str]:
    """Return what is wrong with prose: sentences that are too long, on average and alone, and words of a dialect."""
    counts = {sentence: words(sentence) for sentence in sentences(prose)}
    long = [f"{count} words: {sentence}" for sentence, count in counts.items() if count > MOST]
    mean = sum(counts.values()) / max(1, len(counts))
    return [*long, *([f"{mean:.1f} words a sentence on average"] if mean > MEAN else []), *dialect(prose)]

"""English text for the tasks: Debian package descriptions and the licence texts that every Debian system has.

Packages are chosen by the hash of their name, so that a point release of Debian changes few of them.
"""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

LICENCES = Path("/usr/share/common-licenses")
LIST_COMMAND = "apt-get update -o Acquire::Languages=en"
# Several packages of one source share their description.
SPLIT_PACKAGE = re.compile(r"^(lib|python3-|golang-|node-|ruby-|r-|fonts-|hunspell-|task-)|-(dev|doc|dbg|data|common)$")
LENGTH_RANGE = (150, 1500)
FAMILY_SIZE = 4


@dataclass(frozen=True)
class Description:
    """One package description: `short` is the synopsis line, `long` the text below it."""

    short: str
    long: str


def read_translations() -> str:
    """Return apt's English description lists as text.

    Raises:
        FileNotFoundError: the lists were not fetched.
    """
    query = ["apt-get", "indextargets", "-o", "Acquire::Languages=en", "--format", "$(FILENAME)"]
    names = subprocess.run([*query, "Created-By: Translations"], check=True, capture_output=True, text=True)
    files = [name for name in names.stdout.split() if Path(name).exists()]
    if not files:
        raise FileNotFoundError(f"apt holds no English package descriptions; run `{LIST_COMMAND}`")
    command = ["/usr/lib/apt/apt-helper", "cat-file", *files]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def rank(name: str) -> str:
    """Return a stable pseudo-random sort key."""
    return hashlib.sha256(name.encode()).hexdigest()


def load_descriptions() -> list[Description]:
    """Return package descriptions in families of four, so that each has near neighbours to be confused with.

    A family shares the first word of the package name (`gnome-...`); all are ordered by hash.
    """
    families: dict[str, dict[str, Description]] = {}
    for stanza in read_translations().split("\n\n"):
        match = re.match(r"Package: (\S+)\n.*?Description-en: (.+?)\n(.*)", stanza, re.DOTALL)
        if match is None or SPLIT_PACKAGE.search(match[1]):
            continue
        text = " ".join(line.strip() for line in match[3].splitlines() if line.strip() != ".")
        if LENGTH_RANGE[0] <= len(text) <= LENGTH_RANGE[1]:
            families.setdefault(match[1].split("-")[0], {})[match[1]] = Description(match[2], text)
    found: list[Description] = []
    for family in sorted(families, key=rank):
        members = [families[family][name] for name in sorted(families[family], key=rank)]
        distinct = list({d.short: d for d in {d.long: d for d in members}.values()}.values())
        if len(distinct) >= FAMILY_SIZE:
            found += distinct[:FAMILY_SIZE]
    return found


def load_sentences(licence: str) -> list[str]:
    """Return the sentences of a licence text, such as `GPL-3`, of 5 to 30 words."""
    text = re.sub(r"\s+", " ", (LICENCES / licence).read_text())
    sentences = re.split(r"(?<=[.;:])\s", text)
    return [s for s in sentences if 5 <= len(s.split()) <= 30 and re.fullmatch(r"[\w ,.;:()'\"/-]+", s)]

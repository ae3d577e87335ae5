"""Writes real-world records as JSON lines, {"key": …, "value": {…}}: python3 records.py > FILE

- The words of Debian's package wamerican-insane (some 660,000, among them capitalised ones, possessives and accents).
- The metadata of all Debian packages that this machine knows: those that apt could install where its lists are there
  (some 60,000), else those that are installed.

Words first. Needs no network and nothing but Python's standard library. The same machine gives the same records.
"""

import json
import shutil
import subprocess
import sys

WORDS = "/usr/share/dict/american-english-insane"


def words():
    for line in open(WORDS, encoding="utf-8"):
        word = line.strip()
        base = word.removesuffix("'s")
        value = {
            "length": len(base),
            "capital": word[:1].isupper(),
            "possessive": word != base,
            "ascii": word.isascii(),
            "letters": sorted(set(base.lower())),
        }
        yield "word/" + word, value


def stanzas(text):
    """The fields of each stanza of a Debian control file (deb-control(5))."""
    for stanza in text.split("\n\n"):
        fields, name = {}, None
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                if name:
                    fields[name] += "\n" + line.strip()
            elif ":" in line:
                name, value = line.split(":", 1)
                fields[name] = value.strip()
        if "Package" in fields and "Version" in fields:
            yield fields


def packages():
    text = ""
    if shutil.which("apt-cache"):
        text = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=False).stdout.decode("utf-8", "replace")
    if not text.strip():
        text = open("/var/lib/dpkg/status", encoding="utf-8", errors="replace").read()
    for fields in stanzas(text):
        value = {name.lower().replace("-", "_"): text for name, text in fields.items()}
        for name in ("size", "installed_size"):
            if value.get(name, "").isdigit():
                value[name] = int(value[name])
        for name in ("depends", "recommends", "suggests", "tag"):
            if name in value:
                value[name] = [part.strip() for part in value[name].split(",")]
        yield "package/%s/%s/%s" % (fields["Package"], fields.get("Architecture", "all"), fields["Version"]), value


for source in (words, packages):
    for key, value in source():
        sys.stdout.write(json.dumps({"key": key, "value": value}, ensure_ascii=False, separators=(",", ":")) + "\n")

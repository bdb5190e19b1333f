#!/usr/bin/env python3
"""Writes src/text/unicode_nfc_table.inc from Python's unicodedata: run after a new Unicode version matters.

python3 tools/make_nfc_table.py > src/text/unicode_nfc_table.inc
"""
import sys
import unicodedata as u

ALL = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and not 0xAC00 <= c <= 0xD7A3]


def rows(name, what, entries):
    print(f"// {what}\nconstexpr {name}[] = {{")
    line = ""
    for entry in entries:
        if len(line) + len(entry) + 3 > 118:
            print("    " + line.rstrip())
            line = ""
        line += entry + ", "
    print("    " + line.rstrip() + "\n};\n")


def main():
    print(f"// Written by tools/make_nfc_table.py from Unicode {u.unidata_version}; do not edit. clang-format off\n")
    classes, start = [], None
    for c in ALL + [0x110000]:
        k = u.combining(chr(c)) if c < 0x110000 else 0
        if start and (k != start[2] or c != start[1] + 1):
            classes.append("{0x%x, 0x%x, %d}" % tuple(start))
            start = None
        if k:
            start = [start[0], c, k] if start else [c, c, k]
    rows("CombiningRange kCombining", "first, last, canonical combining class (all others: 0)", classes)
    pairs = []
    for c in ALL:
        d = u.decomposition(chr(c))
        if d and not d.startswith("<"):
            parts = [int(x, 16) for x in d.split()] + [0]
            # A composition exclusion never comes back: recomposing its decomposition gives something else.
            back = len(parts) == 3 and u.normalize("NFC", chr(c)) == chr(c)
            pairs.append("{0x%x, 0x%x, 0x%x, %d}" % (c, parts[0], parts[1], back))
    rows("Decomposition kDecompositions", "code point, first and second part (0: none), whether the parts compose again",
         pairs)
    sys.stderr.write(f"{len(classes)} ranges, {len(pairs)} decompositions\n")


if __name__ == "__main__":
    main()

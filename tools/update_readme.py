#!/usr/bin/env python3
"""Writes the generated tables of README.md between their markers, or checks them.

Usage: update_readme.py [--check] [PROGRAM]      (default build/release/cachette)
"""

import pathlib
import re
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    program = arguments[0] if arguments else str(REPOSITORY / "build" / "release" / "cachette")
    table = subprocess.run([program, "recipes", "--markdown"], check=True, stdout=subprocess.PIPE, text=True).stdout
    old = README.read_text()
    new, found = re.subn(
        r"(<!-- recipes: begin[^\n]*-->\n).*?(<!-- recipes: end -->)",
        lambda match: match[1] + table.strip() + "\n" + match[2],
        old,
        flags=re.DOTALL,
    )
    if found != 1:
        sys.exit("update_readme: README.md has lost its markers `<!-- recipes: begin` and `<!-- recipes: end -->`")
    if "--check" not in sys.argv:
        README.write_text(new)
    elif new != old:
        sys.exit("update_readme: the table of recipes in README.md is out of date: run `make readme`")


if __name__ == "__main__":
    main()

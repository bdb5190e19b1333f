#!/usr/bin/env python3
"""Asks one question about a long document with the full KV cache and with a small working set of it, side by side.

Usage: demo.py [PROGRAM]      (default build/release/cachette; the text and the question are in examples/demo)
"""

import json
import pathlib
import re
import subprocess
import sys
import textwrap

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / "examples" / "demo"
RECIPES = [["--recipe", "full"], ["--recipe", "louis+", "--budget", "1024"]]
ANSWER_TOKENS = 24  # a sentence; a model of 135 million parameters rambles after it
COLUMN = 44


def run(program, question, recipe):
    command = [program, "run", "-f", str(DEMO / "first-flight.txt"), "-p", question, *recipe]
    command += ["--max-new-tokens", str(ANSWER_TOKENS), "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"demo: {' '.join(command)} failed with exit code {result.returncode}")
    return json.loads(result.stdout)


def mebibytes(num_bytes):
    return f"{num_bytes / 2**20:.1f} MiB"


def first_sentence(text):
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]


def rows(results):
    """The table: a label and one cell per result."""
    fast = [r["tiers"]["host"] for r in results]
    slow = [next((tier for name, tier in r["tiers"].items() if name != "host"), None) for r in results]
    retrieval = [r.get("retrieval") for r in results]
    yield "answer (first sentence)", [first_sentence(r["text"]) for r in results]
    yield "prompt", [f"{r['prompt_tokens']} tokens" for r in results]
    yield "first token after", [f"{r['ttft_s']:.1f} s" for r in results]
    yield "then", [f"{r['decode_tokens_per_s']:.0f} tokens/s" for r in results]
    yield "KV in fast memory, end", [mebibytes(tier["bytes_now"]) for tier in fast]
    yield "KV in fast memory, peak", [mebibytes(tier["bytes_peak"]) for tier in fast]
    yield "KV in slow memory", [mebibytes(tier["bytes_now"]) if tier else "none" for tier in slow]
    yield "footprint, both tiers", [f"{100 * r['footprint']:.0f} % of the full cache" for r in results]
    yield "entries copied", [f"{x['entries_copied_per_token']:.1f} per token and KV head" if x else "none" for x in retrieval]


def print_table(heads, table):
    label_width = max(len(label) for label, _ in table)
    rule = "-" * (label_width + len(heads) * (COLUMN + 2))
    print(rule)
    for label, cells in [("", heads), *table]:
        wrapped = [textwrap.wrap(cell, COLUMN) or [""] for cell in cells]
        for line in range(max(map(len, wrapped))):
            text = [lines[line] if line < len(lines) else "" for lines in wrapped]
            print("  ".join([(label if line == 0 else "").ljust(label_width)] + [t.ljust(COLUMN) for t in text]).rstrip())
        if not label:
            print(rule)
    print(rule)


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else str(REPOSITORY / "build" / "release" / "cachette")
    question = (DEMO / "question.txt").read_text().strip()
    print('document: "How We Made the First Flight", Orville Wright, 1913')
    print(f"question: {question}\n", flush=True)
    results = []
    for recipe in RECIPES:
        print(f"running {' '.join(recipe)} ...", flush=True)
        results.append(run(program, question, recipe))
    print()
    print_table([" ".join(recipe) for recipe in RECIPES], list(rows(results)))


if __name__ == "__main__":
    main()

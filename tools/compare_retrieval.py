#!/usr/bin/env python3
"""Runs `cachette eval` over retrieval recipes and their crosses, several at a time, and writes tables.

Usage: compare_retrieval.py --program build/release/cachette --out FOLDER [--jobs N] [--minutes M] [--lengths 4096]
                            [--protocol as-decode|in-turn] [--only NAME,...] [--prev-taus FILE]
                            [--last-taus FILE] [--table FILE.md]

Each (configuration, length, family) leaves FOLDER/NAME-LENGTH-FAMILY.json, the summary object of `cachette eval`; those
already there are not run again. No new one is started after M minutes. All recipes keep 16 sinks and a window of 128,
and every layer retrieves (--dense-layers 0), so that only the choice of entries differs.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import time


def configurations(budget, prev_taus, last_taus):
    """(name, what it is, flags), the most telling first."""
    common = ["--budget", str(budget), "--dense-layers", "0"]
    every = ["louis", *common, "--trigger.kind", "every"]
    yield "full", "full cache", ["full"]
    plus = ["louis+", *common]
    yield "louis+", "`louis+`", plus
    yield "every", "`louis` units, every step", every
    yield "coverage", "`louis` units, `coverage` 0.8", ["louis", *common, "--trigger.kind", "coverage"]
    if last_taus:
        yield "last", "`louis` units, `last`", ["louis", *common, "--trigger.kind", "last", "--last-taus", last_taus]
    if prev_taus:
        yield "prev", "`louis` (published: `prev`)", ["louis", *common, "--prev-taus", prev_taus]
    yield "arkvale", "`arkvale`, pages of 32", ["arkvale", *common]
    yield "quest", "`quest`, pages of 16", ["quest", *common]
    yield "clusterkv", "`clusterkv`, T/80", ["clusterkv", *common]
    yield "clusterkv-16", "`clusterkv`, T/16", ["clusterkv", *common, "--units.cluster-keys", "16"]
    yield "stride", "`louis` units, every 4th step", ["louis", *common, "--trigger.kind", "stride", "--stride", "4"]
    yield "louis+-8", "`louis+`, clusters of 8, pool of 4", [*plus, "--units.cluster-keys", "8", "--pool", "4"]
    yield "louis+-32", "`louis+`, clusters of 32", [*plus, "--units.cluster-keys", "32"]
    yield "louis+-pages", "`louis+`, pages of 16", [*plus, "--units.kind", "pages"]
    yield "louis+-windows", "`louis+`, windows of 1K", [*plus, "--units.cluster-window", "1024",
                                                       "--units.two-level=false"]
    yield "louis+-all", "`louis+`, until 1", [*plus, "--until", "1"]
    yield "louis+-95", "`louis+`, until 0.95", [*plus, "--until", "0.95"]
    yield "louis+-late", "`louis+`, least coverage 0.9", [*plus, "--least-coverage", "0.9"]
    yield "louis+-small", "`louis+`, pool of 2, least coverage 0.9", [*plus, "--pool", "2", "--least-coverage", "0.9"]
    yield "louis+-large", "`louis+`, pool of 3", [*plus, "--pool", "3"]
    yield "louis+-alone", "`louis+`, no guesses", [*plus, "--next-keys", "0"]


# Family -> samples, questions on each.
AMOUNTS = {"as-decode": {"kv": (4, 8), "niah": (4, 6), "path": (4, 3), "tsv": (2, 2), "walk": (2, 2)},
           "in-turn": {"kv": (3, 10), "niah": (4, 6), "path": (6, 2), "tsv": (6, 1), "walk": (2, 2)}}


def run(arguments, out, flags, length, family):
    samples, questions = AMOUNTS[arguments.protocol][family]
    command = [arguments.program, "eval", "-m", arguments.model, "--lora", arguments.adapter, "-t", "1", "--json", "-q",
               "--tasks", family, "--lengths", str(length), "--samples", str(max(1, round(samples * arguments.scale))),
               "--questions", str(questions), "--seed", str(arguments.seed),
               "--protocol", arguments.protocol]
    if arguments.forced:
        command += ["--reply", "forced", "--forced-tokens", str(arguments.forced)]
    command += ["--recipe", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return f"{out.stem}: {lines[-1] if lines else done.returncode}"
    out.write_text(done.stdout)
    return None


def tables(arguments):
    families = arguments.families.split(",")
    text = ""
    for length in map(int, arguments.lengths.split(",")):
        text += f"\n{length} tokens, budget {arguments.budget}\n\n| method | " + " | ".join(families)
        text += " | retrievals per token and layer | entries copied per token and KV head after the first fill | reuse |\n"
        text += "| --- |" + " --- |" * (len(families) + 3) + "\n"
        for name, label, _ in configurations(arguments.budget, arguments.prev_taus, arguments.last_taus):
            cells, retrievals = [], []
            for family in families:
                file = arguments.out / f"{name}-{length}-{family}.json"
                if not file.exists():
                    cells.append("")
                    continue
                summary = json.loads(file.read_text())
                cells.append(f"{summary['tasks'][family]['exact_match']:.2f}")
                if summary.get("retrieval"):
                    retrievals.append(summary["retrieval"])
            if not any(cells):
                continue
            mean = lambda key: sum(r[key] for r in retrievals) / len(retrievals) if retrievals else None
            for key, form in (("retrievals_per_token", "{:.2f}"), ("entries_copied_after_fill", "{:.1f}"),
                              ("reuse_share", "{:.2f}")):
                cells.append(form.format(mean(key)) if retrievals and all(r.get(key) is not None for r in retrievals)
                             else "-")
            text += f"| {label} | " + " | ".join(cells) + " |\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/cachette")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--adapter", default="data/adapters/smollm2-135m-recall-8k.lora.safetensors")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--families", default="kv,niah,path,tsv,walk")
    parser.add_argument("--lengths", default="4096")
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--only", help="names of configurations, all by default")
    parser.add_argument("--prev-taus")
    parser.add_argument("--last-taus")
    parser.add_argument("--protocol", choices=AMOUNTS, default="as-decode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--forced", type=int, default=0, help="feed the reference, so many tokens of it, and count items")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many samples")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--table", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    only = set(arguments.only.split(",")) if arguments.only else None
    todo = []
    for length in map(int, arguments.lengths.split(",")):
        for name, _, flags in configurations(arguments.budget, arguments.prev_taus, arguments.last_taus):
            for family in arguments.families.split(","):
                out = arguments.out / f"{name}-{length}-{family}.json"
                if not out.exists() and (only is None or name in only):
                    todo.append((out, flags, length, family))

    def work(job):
        out, flags, length, family = job
        return run(arguments, out, flags, length, family) if time.monotonic() < end else None

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for problem in pool.map(work, todo):
            if problem:
                print(problem, flush=True)
    text = tables(arguments)
    print(text, end="")
    if arguments.table:
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()

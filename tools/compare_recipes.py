#!/usr/bin/env python3
"""Runs `cachette eval` over eviction recipes, schedules and keep fractions, several at a time, and writes a table.

Usage: compare_recipes.py --program build/release/cachette --model FILE --adapter FILE --out FOLDER
                          [--jobs N] [--minutes M] [--samples 12] [--length 4096] [--table FILE.md]

Each configuration leaves FOLDER/NAME.json, the summary object of `cachette eval`; those already there are not run
again, so an interrupted comparison goes on where it stopped. No new one is started after M minutes.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import time

SCHEDULES = {
    "post-fill": [],
    "chunked": ["--trigger.prefill", "chunked"],
    "patched": ["--trigger.prefill", "chunked", "--trigger.patch", "64"],
}
SCORED = {
    "snapkv": ["snapkv"],
    "pyramidkv": ["pyramidkv"],
    "adakv": ["adakv"],
    "adakv-pyramid": ["adakv", "--allocator.skeleton", "pyramid"],
    "chunkkv": ["chunkkv"],
    "tova": ["tova"],
    "h2o": ["h2o"],
    "knorm": ["knorm"],
    "random": ["random"],
}


def configurations(length):
    """(name, recipe, schedule, keep, flags), the most telling first."""
    yield "full", "full", "-", 1.0, ["full"]
    for keep in (0.25, 0.10, 0.50):
        percent = round(100 * keep)
        for recipe, flags in SCORED.items():
            for schedule, more in SCHEDULES.items():
                yield (f"{recipe}-{schedule}-{percent}", recipe, schedule, keep,
                       flags + ["--keep-fraction", str(keep)] + more)
        budget = str(round(keep * length))
        yield f"streaming-{percent}", "streaming", "each pass", keep, ["streaming", "--budget", budget]
        for schedule in ("post-fill", "chunked"):
            yield (f"rkv-{schedule}-{percent}", "rkv", schedule, keep,
                   ["rkv", "--budget", budget] + SCHEDULES[schedule])


def run(arguments, name, flags, samples):
    out = arguments.out / f"{name}.json"
    command = [arguments.program, "eval", "-m", arguments.model, "--lora", arguments.adapter, "-t", "1", "--json",
               "--tasks", arguments.tasks, "--lengths", str(arguments.length), "--samples", str(samples),
               "--seed", "1", "--protocol", "in-prompt", "--prefill-chunk", str(arguments.chunk)]
    if arguments.forced:
        command += ["--reply", "forced", "--forced-tokens", str(arguments.forced)]
    command += ["--recipe"] + flags
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
    out.write_text(done.stdout)
    return None


def table(arguments):
    tasks = arguments.tasks.split(",")
    lines = ["| recipe | evicts | keep | " + " | ".join(tasks) + " | footprint | peak |",
             "| --- | --- | --- | " + " | ".join("---" for _ in tasks) + " | --- | --- |"]
    for name, recipe, schedule, keep, _ in sorted(configurations(arguments.length), key=lambda c: (c[1], -c[3])):
        file = arguments.out / f"{name}.json"
        if not file.exists():
            continue
        summary = json.loads(file.read_text())
        scores = " | ".join(f"{summary['tasks'][task]['exact_match']:.2f}" for task in tasks)
        lines.append(f"| {recipe} | {schedule} | {keep:.0%} | {scores} | {summary['footprint']:.3f} | "
                     f"{summary['peak']:.3f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/cachette")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--adapter", default="data/adapters/smollm2-135m-recall-8k.lora.safetensors")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", default="kv,niah,path")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--forced", type=int, default=0, help="feed the reference, so many tokens of it, and count items")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--table", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    todo = [c for c in configurations(arguments.length) if not (arguments.out / f"{c[0]}.json").exists()]

    def work(configuration):
        name, _, _, _, flags = configuration
        return run(arguments, name, flags, arguments.samples) if time.monotonic() < end else None

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for problem in pool.map(work, todo):
            if problem:
                print(problem)
    text = table(arguments)
    print(text, end="")
    if arguments.table:
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()

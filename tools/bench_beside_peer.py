#!/usr/bin/env python3
"""Prefill and decode speed of cachette beside llama.cpp's llama-bench: same file, same threads, alternating runs.

Usage: bench_beside_peer.py --peer PATH/llama-bench --model FILE [--threads 2] [--rounds 5] [--out docs/results/NAME]

Each round runs both programs on every test, one after the other, so both meet the same weather on a shared machine.
Prints a Markdown table of medians and ratios; with --out also writes NAME.md and NAME.json (every sample). Python 3.9, stdlib.
"""
import argparse
import datetime
import json
import pathlib
import platform
import statistics
import subprocess
import sys

DECODE_TOKENS = 32
# (prompt lengths, decode depths, repetitions within a process). A decode test at depth 0 is over in 0.2 s, so it repeats; a
# deep one pays a prefill for each repetition. Every row is one process of each program, one after the other.
TESTS = [([512, 4096], [], 1), ([], [0], 5), ([], [4096, 8000], 1)]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed ({done.returncode}): {done.stderr.strip()[-400:]}")
    return done.stdout


def listed(numbers):
    return ",".join(map(str, numbers)) or "0"


def peer_samples(args, prompts, depths, repetitions, samples):
    command = [args.peer, "-m", args.model, "-t", str(args.threads), "-fa", "1", "-r", str(repetitions), "-o", "json",
               "-p", listed(prompts), "-n", str(DECODE_TOKENS) if depths else "0", "-d", listed(depths)]
    for row in json.loads(run(command)):
        name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}@d{row['n_depth']}"
        samples.setdefault(name, []).append(statistics.median(row["samples_ts"]))


def own_samples(args, prompts, depths, repetitions, samples):
    command = [args.cachette, "bench", "llm", "-m", args.model, "-t", str(args.threads), "-r", str(repetitions), "--json",
               "-p", listed(prompts), "-n", str(DECODE_TOKENS) if depths else "0", "-d", listed(depths)]
    for row in json.loads(run(command + args.own)):
        samples.setdefault(row["test"], []).append(row["tokens_per_s"])


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--peer-name", default="llama.cpp", help="how the peer was built, for the table's head")
    parser.add_argument("--cachette", default="build/release/cachette")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--own", nargs=argparse.REMAINDER, default=[], help="further options for cachette bench llm")
    parser.add_argument("--out")
    args = parser.parse_args()
    own, peer = {}, {}
    for i in range(args.rounds):
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr)
        for test in TESTS:
            own_samples(args, *test, own)
            peer_samples(args, *test, peer)
    lines = [f"{cpu_name()}, {args.threads} threads, {datetime.date.today()}; median of {args.rounds} alternating runs,"
             f" tokens/s (min to max). Peer: {args.peer_name}.", "",
             "| test | cachette | peer | ratio of medians |", "| --- | --- | --- | --- |"]
    for name in own:
        if name not in peer:
            sys.exit(f"the peer ran no {name}")
        a, b = own[name], peer[name]
        ratio = statistics.median(a) / statistics.median(b)
        lines.append(f"| {name} | {statistics.median(a):.1f} ({min(a):.1f} to {max(a):.1f}) |"
                     f" {statistics.median(b):.1f} ({min(b):.1f} to {max(b):.1f}) | {ratio:.2f} |")
    print("\n".join(lines))
    if args.out:
        command = "python3 tools/bench_beside_peer.py --peer llama-bench --model " + pathlib.Path(args.model).name
        command += f" --threads {args.threads} --rounds {args.rounds}"
        out = pathlib.Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text("\n".join(["# cachette beside its peer", "", f"`{command}`", ""] + lines) + "\n")
        out.with_suffix(".json").write_text(json.dumps({"command": command, "machine": cpu_name(), "threads": args.threads,
                                                        "date": str(datetime.date.today()), "peer": args.peer_name,
                                                        "cachette": own, "peer_samples": peer}, indent=1) + "\n")


main()

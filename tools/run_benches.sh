#!/bin/sh
# Runs every micro-benchmark of a build, results as JSON beside it and a table on the terminal, then the model benchmark
# on the default model.
# Usage: tools/run_benches.sh BUILD_DIR [GOOGLE_BENCHMARK_OPTION...]
set -eu
build_dir=$1
shift
found=
for program in "$build_dir"/bench/*_bench; do
  [ -x "$program" ] || continue
  found=yes
  "$program" --benchmark_out="$program.json" --benchmark_out_format=json "$@"
done
[ -n "$found" ] || { echo "bench: no benchmark in $build_dir/bench" >&2; exit 1; }
"$build_dir/cachette" bench machine
"$build_dir/cachette" bench llm -p 512,4096 -n 32 -d 0,4096 -r 3

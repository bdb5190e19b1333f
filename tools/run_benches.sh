#!/bin/sh
# Runs every micro-benchmark of a build; results as JSON beside it, the table on the terminal.
# Usage: tools/run_benches.sh BUILD_DIR
set -eu
build_dir=$1
found=
for program in "$build_dir"/bench/*_bench; do
  [ -x "$program" ] || continue
  found=yes
  "$program" --benchmark_out="$program.json" --benchmark_out_format=json
done
[ -n "$found" ] || { echo "bench: no benchmark in $build_dir/bench" >&2; exit 1; }

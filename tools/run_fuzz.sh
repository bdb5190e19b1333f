#!/bin/sh
# Runs every fuzz target of a build for some seconds each, from its corpus; a crash is a failure.
# Usage: tools/run_fuzz.sh BUILD_DIR SECONDS
set -eu
build_dir=$1 seconds=$2
corpora=$(dirname "$0")/../fuzz/corpus
found=
for target in "$build_dir"/fuzz_*; do
  [ -f "$target" ] && [ -x "$target" ] || continue
  found=yes
  name=${target##*/fuzz_}
  mkdir -p "$build_dir/found/$name" # new inputs stay out of the source tree
  echo "fuzz: $name, $seconds s"
  "$target" -verbosity=0 -print_final_stats=1 -max_total_time="$seconds" -artifact_prefix="$build_dir/found/$name-" "$build_dir/found/$name" "$corpora/$name"
done
[ -n "$found" ] || { echo "fuzz: no target in $build_dir" >&2; exit 1; }

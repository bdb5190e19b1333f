#!/bin/sh
# clang-tidy over the sources that differ from the main branch (committed or not), or over all of them.
# Usage: tools/tidy.sh BUILD_DIR [all]        BUILD_DIR holds compile_commands.json
set -eu
build_dir=$1
cd "$(dirname "$0")/.."

if [ "${2:-}" = all ]; then
  files=$(git ls-files '*.cc')
else
  base=$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD)
  files=$( (git diff --name-only --diff-filter=d "$base" -- '*.cc'; git ls-files --others --exclude-standard '*.cc') | sort -u)
fi

# A changed header is checked through its .cc; files outside the build (benches, fuzz targets) have no compile command.
known=
for file in $files; do
  grep -q "/$file\"" "$build_dir/compile_commands.json" && known="$known $PWD/$file"
done
if [ -z "$known" ]; then
  echo "tidy: no changed source; FILES=all checks every one"
  exit 0
fi
# shellcheck disable=SC2086  # file names here have no spaces
exec run-clang-tidy-16 -quiet -p "$build_dir" -j "$(nproc)" $known

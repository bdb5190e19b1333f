#!/bin/sh
# Installs a build into a scratch folder, builds examples/embed against it with CMake and with pkg-config, runs both.
# Usage: embed_test.sh SOURCE_DIR BUILD_DIR CXX
set -eu
source_dir=$1 build_dir=$2 cxx=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$source_dir/tests/data/models/llama-tied
prompt=$(seq 1 30 | tr '\n' ' ') # longer than the example's budget of 64 entries

cmake --install "$build_dir" --prefix "$work/installed" >"$work/install.log"
# Moved once: nothing in it may point at where it was installed.
mv "$work/installed" "$work/tree"
test -x "$work/tree/bin/cachette"

cmake -S "$source_dir/examples/embed" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$work/tree" -DCMAKE_CXX_COMPILER="$cxx" \
      -DCMAKE_BUILD_TYPE=Release >"$work/configure.log"
cmake --build "$work/cmake" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
"$work/cmake/embed" "$model" "$prompt" >"$work/by_cmake"

PKG_CONFIG_PATH=$(dirname "$(find "$work/tree" -name cachette.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046  # flags are words
"$cxx" -std=c++20 -O1 "$source_dir/examples/embed/main.cc" -o "$work/embed" $(pkg-config --cflags --libs cachette)
"$work/embed" "$model" "$prompt" >"$work/by_pkg_config"

cat "$work/by_cmake"
cmp "$work/by_cmake" "$work/by_pkg_config"
grep -q "^footprint 0\." "$work/by_cmake" # less than 1: the recipe was in force

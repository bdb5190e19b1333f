#pragma once
// A fuzz target is a file fuzz_<name>.cc that defines cachette::fuzz::<name>::Run(std::span<const std::byte>), and a
// folder corpus/<name>/ of seeds. Run gets any bytes and must return: no crash, no leak, no hang; it may CACHETTE_CHECK
// what has to hold for them. CMakeLists.txt here finds it; tests/fuzz/corpus_test.cc runs it without libFuzzer.

#include <cstddef>
#include <span>

#include "base/result.h"

#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/rng.h"

namespace cachette {

// Made-up names and values. One source never gives the same text twice.
class WordSource {
 public:
  explicit WordSource(Rng& rng) : rng_(&rng) {}

  std::string NumberedKey();           // "amber-anchor-417", the number from 0 to 999
  std::string WordKey();               // "amber-anchor"
  std::string Name();                  // "Peson"
  std::string Number(int num_digits);  // without leading zeros; num_digits <= 18
  std::string Uuid();                  // version 4, random
  Rng& rng() { return *rng_; }

 private:
  // The first of what make(try number) gives that is new.
  template <class F>
  std::string New(F make);

  Rng* rng_;
  std::set<std::string> used_;
};

// Fisher-Yates, the same order on every machine.
template <class T>
void Shuffle(std::vector<T>& items, Rng& rng) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[rng.Below(i)]);
}

// count distinct numbers of [0, bound), in random order; count <= bound.
std::vector<int64_t> DrawDistinct(int64_t bound, int64_t count, Rng& rng);

}  // namespace cachette

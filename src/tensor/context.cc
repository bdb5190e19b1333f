#include "tensor/context.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace cachette {
namespace {

constexpr size_t kAlignment = 64;           // one cache line, one AVX-512 register
constexpr size_t kMinSlabBytes = 1u << 20;  // below this, slabs would be small change

}  // namespace

void ScratchArena::FreeDeleter::operator()(std::byte* p) const { std::free(p); }

std::byte* ScratchArena::Allocate(size_t num_bytes) {
  num_bytes = (std::max<size_t>(num_bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  for (; current_ < slabs_.size(); ++current_) {
    Slab& slab = slabs_[current_];
    // An idle slab that is too small is replaced, not left behind: requests that grow a little with each step would
    // otherwise pile up slabs.
    if (slab.used_bytes == 0 && slab.capacity_bytes < num_bytes) slab = NewSlab(num_bytes + num_bytes / 4);
    if (slab.capacity_bytes - slab.used_bytes >= num_bytes) {
      std::byte* p = slab.memory.get() + slab.used_bytes;
      slab.used_bytes += num_bytes;
      return p;
    }
  }
  slabs_.push_back(NewSlab(num_bytes));
  slabs_.back().used_bytes = num_bytes;
  return slabs_.back().memory.get();
}

ScratchArena::Slab ScratchArena::NewSlab(size_t num_bytes) {
  const size_t capacity = (std::max(num_bytes, kMinSlabBytes) + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, capacity));
  if (memory == nullptr) throw std::bad_alloc();
  return {std::unique_ptr<std::byte[], FreeDeleter>(memory), capacity, 0};
}

size_t ScratchArena::capacity_bytes() const {
  size_t sum = 0;
  for (const Slab& slab : slabs_) sum += slab.capacity_bytes;
  return sum;
}

ScratchScope::ScratchScope(ScratchArena& arena)
    : arena_(arena),
      slab_(arena.current_),
      used_bytes_(arena.current_ < arena.slabs_.size() ? arena.slabs_[arena.current_].used_bytes : 0) {}

ScratchScope::~ScratchScope() {
  for (size_t i = slab_; i < arena_.slabs_.size(); ++i) arena_.slabs_[i].used_bytes = i == slab_ ? used_bytes_ : 0;
  arena_.current_ = slab_;
}

}  // namespace cachette

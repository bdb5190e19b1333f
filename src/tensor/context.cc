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
    if (slab.capacity_bytes - slab.used_bytes >= num_bytes) {
      std::byte* p = slab.memory.get() + slab.used_bytes;
      slab.used_bytes += num_bytes;
      return p;
    }
  }
  const size_t capacity = std::max(num_bytes, kMinSlabBytes);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, capacity));
  if (memory == nullptr) throw std::bad_alloc();
  slabs_.push_back({std::unique_ptr<std::byte[], FreeDeleter>(memory), capacity, num_bytes});
  return memory;
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

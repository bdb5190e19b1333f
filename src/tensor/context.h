#pragma once
// What every op needs besides its operands: which kernels to run, with how many threads, and scratch memory.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "tensor/backend.h"

namespace cachette {

// Grow-only bump memory for one step. Allocations live until the enclosing ScratchScope ends.
class ScratchArena {
 public:
  // 64-byte aligned, uninitialised. Never fails short of the machine's memory (std::bad_alloc then).
  std::byte* Allocate(size_t num_bytes);
  template <class T>
  std::span<T> Array(size_t count) {
    return {reinterpret_cast<T*>(Allocate(count * sizeof(T))), count};
  }
  size_t capacity_bytes() const;

 private:
  friend class ScratchScope;
  struct FreeDeleter {
    void operator()(std::byte* p) const;
  };
  struct Slab {
    std::unique_ptr<std::byte[], FreeDeleter> memory;
    size_t capacity_bytes = 0;
    size_t used_bytes = 0;
  };
  static Slab NewSlab(size_t num_bytes);

  std::vector<Slab> slabs_;
  size_t current_ = 0;  // slab in use
};

// Gives back, on destruction, everything allocated from the arena since construction.
class ScratchScope {
 public:
  explicit ScratchScope(ScratchArena& arena);
  ~ScratchScope();
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

 private:
  ScratchArena& arena_;
  size_t slab_;
  size_t used_bytes_;
};

// One engine's execution state. Not shared between threads that run ops at the same time.
class Context {
 public:
  Context(Backend backend, int num_threads) : backend_(backend), num_threads_(num_threads) {}

  Isa isa() const { return backend_.isa; }
  const Backend& backend() const { return backend_; }
  int num_threads() const { return num_threads_; }
  ScratchArena& scratch() { return scratch_; }

  // The one T of this Context, default-constructed at the first call: where an op keeps what is costly to make, such as
  // library primitives. Call it outside ParallelFor; the reference stays valid for the Context's life.
  template <class T>
  T& Cached() {
    std::shared_ptr<void>& slot = cached_[std::type_index(typeid(T))];
    if (slot == nullptr) slot = std::make_shared<T>();
    return *static_cast<T*>(slot.get());
  }

  // Runs body(task) for every task in [0, num_tasks), spread over the threads (dynamic order, one task at a time).
  // body must not throw. Nested calls run on the calling thread.
  template <class Body>
  void ParallelFor(int64_t num_tasks, const Body& body) const {
    if (num_tasks <= 1 || num_threads_ == 1) {
      for (int64_t i = 0; i < num_tasks; ++i) body(i);
      return;
    }
#pragma omp parallel for num_threads(num_threads_) schedule(dynamic, 1)
    for (int64_t i = 0; i < num_tasks; ++i) body(i);
  }

 private:
  Backend backend_;
  int num_threads_;
  ScratchArena scratch_;
  std::unordered_map<std::type_index, std::shared_ptr<void>> cached_;
};

}  // namespace cachette

#pragma once
// Failures that a user, file, request or device can cause travel as values; our own mistakes go through CACHETTE_CHECK.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace cachette {

enum class Error : uint8_t {
  kInvalidArgument,  // an option or argument is outside its allowed range
  kNotFound,         // a file, tensor, recipe or name does not exist
  kCorrupt,          // a file's bytes contradict its own format
  kUnsupported,      // valid input that this program does not implement
  kOutOfMemory,      // a pool, tier or the machine cannot hold what was asked
  kUnavailable,      // a backend or device is not built in or not present
  kIo,               // the operating system refused a read or write
  kCancelled,        // the caller asked to stop
};

// One word for an Error, as printed before its message.
const char* ErrorName(Error e);

// Why an operation failed: a kind to branch on and one sentence (value, limit, what to do) to print.
struct Failure {
  Error error;
  std::string message;
};

inline Failure Fail(Error e, std::string message) { return Failure{e, std::move(message)}; }

// Either a T or a Failure.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Failure failure) : failure_(std::move(failure)) {}

  bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  const Failure& failure() const& { return failure_; }
  Failure&& failure() && { return std::move(failure_); }

 private:
  std::optional<T> value_;
  Failure failure_{};
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Failure failure) : failure_(std::move(failure)) {}

  bool ok() const { return !failure_.has_value(); }
  explicit operator bool() const { return ok(); }
  void operator*() const {}
  const Failure& failure() const& { return *failure_; }
  Failure&& failure() && { return std::move(*failure_); }

 private:
  std::optional<Failure> failure_;
};

inline Result<void> Ok() { return {}; }

// Prints the broken expectation and stops the program. Only for our own mistakes, never reachable from input.
[[noreturn]] void CheckFailed(const char* expression, const char* file, int line);

}  // namespace cachette

#define CACHETTE_CONCAT_INNER_(a, b) a##b
#define CACHETTE_CONCAT_(a, b) CACHETTE_CONCAT_INNER_(a, b)
#define CACHETTE_TRY_1_(tmp, expr)                  \
  do {                                              \
    auto tmp = (expr);                              \
    if (!tmp.ok()) return std::move(tmp).failure(); \
  } while (false)
#define CACHETTE_TRY_2_(tmp, decl, expr)          \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).failure(); \
  decl = std::move(*tmp)
#define CACHETTE_TRY_PICK_(a, b, macro, ...) macro

// CACHETTE_TRY(expr) or CACHETTE_TRY(auto x, expr): hands a Failure to the caller, else (binds the value and) goes on.
#define CACHETTE_TRY(...)                                             \
  CACHETTE_TRY_PICK_(__VA_ARGS__, CACHETTE_TRY_2_, CACHETTE_TRY_1_, ) \
  (CACHETTE_CONCAT_(cachette_try_, __COUNTER__), __VA_ARGS__)

#define CACHETTE_CHECK(expression) ((expression) ? (void)0 : ::cachette::CheckFailed(#expression, __FILE__, __LINE__))

#pragma once
// A part that is one of several, chosen by an option: what makes a cross of two published methods a matter of options.

#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/nearest.h"
#include "methods/part.h"

namespace cachette {

// T: a kind of part. Declares "kind" and then every alternative's options, whose names must differ from each other.
template <class T>
class Choice final : public Part {
 public:
  Choice(const char* summary, std::string kind, std::vector<std::unique_ptr<T>> alternatives)
      : summary_(summary), kind_(std::move(kind)), alternatives_(std::move(alternatives)) {}

  const char* name() const override { return kind_.c_str(); }
  void VisitOptions(OptionVisitor& v) override {
    v(kind_, "kind", summary_);
    for (const std::unique_ptr<T>& alternative : alternatives_) alternative->VisitOptions(v);
  }
  Result<void> Prepare(const CacheShape& shape) override {
    CACHETTE_TRY(Check());
    return Chosen()->Prepare(shape);
  }
  // Errors: kInvalidArgument, naming the alternatives.
  Result<void> Check() const {
    if (Chosen() != nullptr) return Ok();
    std::string names;
    for (const std::unique_ptr<T>& alternative : alternatives_)
      names += fmt::format("{}{}", names.empty() ? "" : ", ", alternative->name());
    return Fail(Error::kInvalidArgument, fmt::format("kind '{}' is none of {}", kind_, names));
  }
  const T& operator*() const { return *Chosen(); }
  const T* operator->() const { return Chosen(); }

 private:
  T* Chosen() const {
    for (const std::unique_ptr<T>& alternative : alternatives_)
      if (kind_ == alternative->name()) return alternative.get();
    return nullptr;
  }
  const char* summary_;
  std::string kind_;
  std::vector<std::unique_ptr<T>> alternatives_;
};

}  // namespace cachette

#pragma once

#include "methods/part.h"

namespace cachette {

// Acts before every pass: a prefill chunk or a decode step starts from what the recipe keeps.
class EveryPass final : public Trigger {
 public:
  const char* name() const override { return "every_pass"; }
  bool FiresBefore(const PassInfo& pass) const override { return pass.first_token > 0; }
  bool acts_in_decode() const override { return true; }
};

}  // namespace cachette

#pragma once
// Options declared once: a struct names its fields in VisitOptions, and flags, JSON, help and docs are visitors over it.

#include <cstdint>
#include <string>

namespace cachette {

// One call per field: a reference to it (holding the default), its name, and one line of help that states the unit.
class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  virtual void Visit(bool& value, const char* name, const char* help) = 0;
  virtual void Visit(int64_t& value, const char* name, const char* help) = 0;
  virtual void Visit(double& value, const char* name, const char* help) = 0;
  virtual void Visit(std::string& value, const char* name, const char* help) = 0;

  template <class T>
  void operator()(T& value, const char* name, const char* help) {
    Visit(value, name, help);
  }
};

}  // namespace cachette

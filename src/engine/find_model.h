#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace cachette {

inline constexpr const char* kDefaultModelFile = "SmolLM2-135M-Instruct.Q4_1.gguf";

// Folders searched for models, in order: models/ here and in the parents of the program's own folder, then the user's
// cache folder ($XDG_CACHE_HOME or ~/.cache)/cachette/models.
std::vector<std::string> ModelFolders();

// name as given when it exists or is synthetic:..., else name in one of the folders; for "" the default model.
// Errors: kNotFound, saying how to fetch it.
Result<std::string> FindModel(const std::string& name);

}  // namespace cachette

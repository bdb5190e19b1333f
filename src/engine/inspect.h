#pragma once
// What is known about a model without loading its weights.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/machine.h"
#include "engine/options.h"
#include "model/checkpoint.h"
#include "text/tokenizer.h"

namespace cachette {

// A model file opened for its description and tokenizer only.
struct ModelFile {
  std::string path;
  std::unique_ptr<Checkpoint> checkpoint;
};

// Looks the model up as Engine::Load does; uses options.model and options.rope_scale only. Errors: as Engine::Load.
Result<ModelFile> OpenModelFile(const EngineOptions& options);

struct TensorCount {
  int64_t num_tensors = 0;
  int64_t num_elements = 0;
  int64_t num_bytes = 0;
};

struct ModelSummary {
  std::string path;
  ModelConfig config;
  std::map<std::string, TensorCount> tensors;  // by dtype
  int64_t num_parameters = 0;
  int64_t weight_bytes = 0;
  std::string tokenizer_error;  // "": there is one
  std::string tokenizer_kind;
  int64_t tokenizer_vocab_size = 0;
  int64_t bos_id = -1, eos_id = -1, pad_id = -1;
  std::vector<int32_t> end_ids;
  bool adds_bos = false;
  std::string chat_template;      // "supported", "none" or "unsupported"
  std::string chat_template_why;  // when unsupported
  std::string kv_dtype;
  int64_t kv_bytes_per_token = 0;  // of the full cache
  Machine machine;
  int64_t tokens_in_memory = 0;  // of full cache, beside the weights, in the memory available now
};
Result<ModelSummary> InspectModel(const EngineOptions& options);

}  // namespace cachette

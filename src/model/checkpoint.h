#pragma once
// A model file behind one set of names: GGUF, a folder of safetensors, or weights made up in place.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/tensor_file.h"
#include "model/config.h"

namespace cachette {

class GgufFile;

// Tensor names are GGUF's ("blk.0.attn_q.weight", "token_embd.weight", ...) whatever the file calls them.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  // path: a .gguf file, a folder with config.json and *.safetensors, a .safetensors file beside its config.json, or
  // "synthetic:SHAPE[,layers=N][,dtype=NAME][,seed=N]". Errors: those of the file formats; kUnsupported (family).
  static Result<std::unique_ptr<Checkpoint>> Open(const std::string& path);

  const ModelConfig& config() const { return config_; }
  ModelConfig& mutable_config() { return config_; }
  const std::string& path() const { return path_; }
  // The file whose bytes identify the model, "" for synthetic ones.
  const std::string& weights_file() const { return weights_file_; }
  // Row order of query and key matrices: true where rotary pairs are adjacent rows (GGUF llama), false for halves.
  bool has_adjacent_pairs() const { return config_.rope.pairing == ops::RopePairing::kAdjacent; }
  virtual const GgufFile* gguf() const { return nullptr; }  // for its tokenizer fields
  virtual std::string folder() const { return ""; }         // of tokenizer.json; "" when there is none

  // Null when the checkpoint has no such tensor. A synthetic checkpoint makes the weights now: not for two threads at
  // once.
  virtual const TensorInfo* Find(std::string_view name) const = 0;
  // Errors: kNotFound, naming tensor and file.
  Result<const TensorInfo*> Get(std::string_view name) const;
  // Under the file's own names. Names, types and shapes; those of a synthetic checkpoint have no bytes before Find.
  virtual std::vector<const TensorInfo*> Tensors() const = 0;
  // The tensor's pages need not stay in memory.
  virtual void Drop(const TensorInfo&) const {}
  int64_t total_bytes() const;  // of all tensors

 protected:
  explicit Checkpoint(std::string path) : path_(std::move(path)) {}

  std::string path_;
  std::string weights_file_;
  ModelConfig config_;
};

Result<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path);
Result<std::unique_ptr<Checkpoint>> OpenSafetensorsCheckpoint(const std::string& path);
Result<std::unique_ptr<Checkpoint>> OpenSyntheticCheckpoint(const std::string& spec);

}  // namespace cachette

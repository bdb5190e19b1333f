#include "engine/inspect.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/find_model.h"
#include "engine/load_tokenizer.h"
#include "ops/attention/kv_view.h"
#include "text/chat_template.h"

namespace cachette {
namespace {

void DescribeTokenizer(const Checkpoint& checkpoint, ModelSummary& out) {
  const Result<Tokenizer> tokenizer = LoadTokenizer(checkpoint);
  if (!tokenizer.ok()) {
    out.tokenizer_error = tokenizer.failure().message;
    return;
  }
  out.tokenizer_kind = tokenizer->kind() == TokenizerKind::kByteLevelBpe ? "byte-level BPE" : "SentencePiece-style BPE";
  out.tokenizer_vocab_size = tokenizer->vocab_size();
  out.bos_id = tokenizer->bos_id();
  out.eos_id = tokenizer->eos_id();
  out.pad_id = tokenizer->pad_id();
  out.end_ids = tokenizer->end_ids();
  out.adds_bos = tokenizer->adds_bos();
  out.chat_template = "none";
  if (tokenizer->chat_template().empty()) return;
  const Result<ChatTemplate> parsed = ChatTemplate::Parse(tokenizer->chat_template());
  out.chat_template = parsed.ok() ? "supported" : "unsupported";
  if (!parsed.ok()) out.chat_template_why = parsed.failure().message;
}

}  // namespace

Result<ModelFile> OpenModelFile(const EngineOptions& options) {
  CACHETTE_TRY(Validate(options));
  ModelFile file;
  CACHETTE_TRY(file.path, FindModel(options.model));
  CACHETTE_TRY(file.checkpoint, Checkpoint::Open(file.path));
  CACHETTE_TRY(StretchContext(file.checkpoint->mutable_config(), options.rope_scale));
  return file;
}

Result<ModelSummary> InspectModel(const EngineOptions& options) {
  CACHETTE_TRY(const ModelFile file, OpenModelFile(options));
  ModelSummary out;
  out.path = file.path;
  out.config = file.checkpoint->config();
  for (const TensorInfo* tensor : file.checkpoint->Tensors()) {
    TensorCount& count = out.tensors[InfoOf(tensor->dtype).name];
    ++count.num_tensors;
    count.num_elements += tensor->num_elements();
    count.num_bytes += tensor->num_bytes();
    out.num_parameters += tensor->num_elements();
  }
  out.weight_bytes = file.checkpoint->total_bytes();
  DescribeTokenizer(*file.checkpoint, out);
  const ops::KvFormat format{*DtypeFromName(options.kv_dtype), out.config.head_dim};
  out.kv_dtype = options.kv_dtype;
  out.kv_bytes_per_token = static_cast<int64_t>(format.entry_bytes()) * out.config.num_layers * out.config.num_kv_heads;
  out.machine = DescribeMachine();
  int64_t room = options.fast_kv_bytes;
  if (room == 0) room = std::max<int64_t>(0, (out.machine.available_bytes - out.weight_bytes) * 9 / 10);
  out.tokens_in_memory = room / out.kv_bytes_per_token;
  return out;
}

}  // namespace cachette

#include "text/stream_decoder.h"

#include "text/utf8.h"

namespace cachette {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special, bool starts_text)
    : tokenizer_(&tokenizer),
      skips_special_(skip_special),
      starts_text_(starts_text && tokenizer.adds_space_prefix()),
      at_start_(starts_text_) {}

std::string StreamDecoder::Push(int32_t id) {
  std::string out;
  const bool is_control = tokenizer_->IsControl(id);
  if (is_control && skips_special_) return out;
  std::string_view bytes = tokenizer_->TokenBytes(id);
  if (at_start_ && !is_control && !bytes.empty()) {
    if (bytes.front() == ' ') bytes.remove_prefix(1);
    at_start_ = false;
  }
  pending_ += bytes;
  TakeCompleteUtf8(pending_, out);
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  if (!pending_.empty()) out = "\xef\xbf\xbd";
  pending_.clear();
  at_start_ = starts_text_;
  return out;
}

}  // namespace cachette

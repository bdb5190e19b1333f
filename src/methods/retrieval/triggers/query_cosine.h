#pragma once
// Semantic boundary: the queries of a layer no longer point where they pointed. "prev" compares with the previous
// token's, as LouisKV does (arXiv:2510.11292), "last" with those of the layer's last retrieval, which also notices a
// slow drift.

#include "methods/number_rows.h"
#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class QueryCosine final : public RetrievalTrigger {
 public:
  enum class Against : uint8_t { kPrevious, kLast };
  explicit QueryCosine(Against against) : against_(against) {}
  const char* name() const override { return against_ == Against::kPrevious ? "prev" : "last"; }
  void VisitOptions(OptionVisitor& v) override {
    if (against_ == Against::kPrevious) {
      v(tau_, "prev_tau", "prev: retrieve when the mean cosine to the previous token's queries is below");
      v(file_, "prev_taus", "prev: file of one tau per layer, from cachette calibrate");
    } else {
      v(tau_, "last_tau", "last: retrieve when the mean cosine to the last retrieval's queries is below");
      v(file_, "last_taus", "last: file of one tau per layer, from cachette calibrate");
    }
  }
  Result<void> Prepare(const CacheShape& shape) override {
    if (!(tau_ >= -1.0 && tau_ <= 1.0))
      return Fail(Error::kInvalidArgument, fmt::format("{}_tau {} is no cosine, it must be in [-1, 1]", name(), tau_));
    taus_.assign(static_cast<size_t>(shape.num_layers), static_cast<float>(tau_));
    if (file_.empty()) return Ok();
    CACHETTE_TRY(const auto rows, ReadNumberRows("threshold file", file_, -1.0, 1.0));
    if (static_cast<int>(rows.size()) != shape.num_layers)
      return Fail(Error::kInvalidArgument, fmt::format("threshold file {} has {} lines; this model has {} layers",
                                                       file_, rows.size(), shape.num_layers));
    for (size_t layer = 0; layer < rows.size(); ++layer) taus_[layer] = static_cast<float>(rows[layer].front());
    return Ok();
  }
  bool needs_cosines() const override { return true; }
  bool Fires(const RetrievalMoment& moment) const override {
    const float cosine = against_ == Against::kPrevious ? moment.cosine_previous : moment.cosine_last;
    return cosine < taus_[static_cast<size_t>(moment.layer)];
  }

 private:
  Against against_;
  double tau_ = 0.7;
  std::string file_;
  std::vector<float> taus_;  // [num_layers]
};

}  // namespace cachette

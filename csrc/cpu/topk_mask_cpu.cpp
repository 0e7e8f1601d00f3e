// Binds the top-k CPU kernels to tensors.
#include <tuple>

#include "../core/topk_mask_check.h"
#include "tensor_cpu.h"
#include "topk_mask.h"

namespace supertickets {
namespace {

TopkMaskParams topk_params(ScalarType type, bool by_magnitude) {
  return {storage_type(type), by_magnitude, torch_parallel(), selected_isa()};
}

Span span_of(const Tensor& scores, const Tensor& mask) {
  return {scores.data_ptr(), static_cast<bool*>(mask.data_ptr()), scores.numel()};
}

Tensor empty_mask(const Tensor& scores) {
  return torch::stable::new_empty(scores, scores.sizes(), ScalarType::Bool);
}

Tensor topk_mask_cpu(const Tensor& scores, int64_t keep, bool by_magnitude) {
  constexpr const char* kOp = "topk_mask";
  check_scores(kOp, scores, scores.scalar_type());
  STD_TORCH_CHECK(scores.dim() == 2, kOp, ": scores must be [rows, n], got shape ",
                  shape_text(scores));
  check_keep(kOp, keep, scores.size(1));
  const Tensor dense = torch::stable::contiguous(scores);
  Tensor mask = empty_mask(dense);
  TopkMaskParams params = topk_params(scores.scalar_type(), by_magnitude);
  const int64_t rows = scores.size(0);
  const Span all = span_of(dense, mask);
  const int64_t row_bytes = scores.size(1) * static_cast<int64_t>(scores.element_size());
  const auto run_row = [&](int64_t row) {
    topk_mask(params,
              {{static_cast<const char*>(all.scores) + row * row_bytes,
                all.mask + row * scores.size(1), scores.size(1)}},
              keep);
  };
  if (rows == 1) {
    run_row(0);
    return mask;
  }
  // Each thread takes whole rows: nested parallel regions run on the thread that opens them.
  parallel_for(torch_parallel(), rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) run_row(row);
  });
  return mask;
}

std::vector<Tensor> global_topk_mask_cpu(std::vector<Tensor> scores, int64_t keep,
                                         bool by_magnitude) {
  constexpr const char* kOp = "global_topk_mask";
  STD_TORCH_CHECK(!scores.empty(), kOp, ": scores must hold at least one tensor");
  std::vector<Tensor> dense, masks;
  std::vector<Span> spans;
  int64_t count = 0;
  for (const Tensor& tensor : scores) {
    check_scores(kOp, tensor, scores.front().scalar_type());
    count += tensor.numel();
  }
  check_keep(kOp, keep, count);
  for (const Tensor& tensor : scores) {
    dense.push_back(torch::stable::contiguous(tensor));
    masks.push_back(empty_mask(dense.back()));
    spans.push_back(span_of(dense.back(), masks.back()));
  }
  topk_mask(topk_params(scores.front().scalar_type(), by_magnitude), spans, keep);
  return masks;
}

std::tuple<Tensor, Tensor, Tensor> update_topk_mask_cpu(Tensor mask, const Tensor& scores,
                                                        int64_t keep,
                                                        std::optional<int64_t> max_swaps,
                                                        bool by_magnitude) {
  check_update(mask, scores, keep, max_swaps);
  const Tensor dense = torch::stable::contiguous(scores);
  Tensor work = torch::stable::contiguous(mask);  // the same tensor if it is contiguous
  const MaskChange change = update_topk_mask(topk_params(scores.scalar_type(), by_magnitude),
                                             span_of(dense, work), keep, max_swaps.value_or(-1));
  if (!mask.is_contiguous()) torch::stable::copy_(mask, work);
  const auto scalar = [&](double value, ScalarType type) {
    Tensor result = torch::stable::new_empty(scores, {}, type);
    torch::stable::fill_(result, value);
    return result;
  };
  return {scalar(change.threshold, scores.scalar_type()),
          scalar(static_cast<double>(change.grown), ScalarType::Long),
          scalar(static_cast<double>(change.pruned), ScalarType::Long)};
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("topk_mask", TORCH_BOX(&supertickets::topk_mask_cpu));
  m.impl("global_topk_mask", TORCH_BOX(&supertickets::global_topk_mask_cpu));
  m.impl("update_topk_mask_", TORCH_BOX(&supertickets::update_topk_mask_cpu));
}

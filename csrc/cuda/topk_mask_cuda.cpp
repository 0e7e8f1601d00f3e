// Binds the top-k CUDA kernels to tensors.
#include <algorithm>
#include <tuple>

#include "../core/topk_mask_check.h"
#include "../core/work_mask.h"
#include "nm_mask.h"
#include "tensor_cuda.h"
#include "topk_mask.h"

namespace supertickets::cuda {
namespace {

constexpr int64_t kShortRow = 256;      // whose entries are ranked by comparing all pairs
constexpr int64_t kBlockRow = 1 << 15;  // that one block ranks by itself

using Updated = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Tensors of one call, ranked in segments, and the device memory for it.
class Call {
 public:
  Call(const Tensor& like, bool by_magnitude) : like_(like), by_magnitude_(by_magnitude) {}

  // Both are contiguous, and are kept alive. inactive_scores may be the same tensor.
  void add(const Tensor& scores, const Tensor& inactive_scores, const Tensor& mask,
           int64_t segment) {
    kept_.insert(kept_.end(), {scores, inactive_scores, mask});
    pieces_.push_back({scores.data_ptr(), inactive_scores.data_ptr(),
                       static_cast<bool*>(mask.data_ptr()), scores.numel(), chunks_, segment});
    chunks_ += (scores.numel() + kChunk - 1) / kChunk;
  }

  // One number of each segment.
  SelectParams start(const std::vector<int64_t>& keep, cudaStream_t stream) {
    const auto pieces = static_cast<int64_t>(pieces_.size());
    const auto segments = static_cast<int64_t>(keep.size());
    const Tensor memory = workspace(like_, table_bytes(pieces, segments, chunks_));
    kept_.push_back(memory);
    const Tables tables = tables_in(memory.data_ptr(), pieces, segments, chunks_);
    write_tables(tables, pieces_.data(), keep.data(), stream);
    return {tables, storage_type(like_.scalar_type()), by_magnitude_};
  }

 private:
  Tensor like_;
  bool by_magnitude_;
  std::vector<Tensor> kept_;
  std::vector<Piece> pieces_;
  int64_t chunks_ = 0;
};

// Masks are moved towards the sets of their segments' best entries.
Updated update(const char* op, const std::vector<Tensor>& masks, const std::vector<Tensor>& scores,
               const std::vector<int64_t>& keep, bool together, std::optional<int64_t> max_swaps,
               std::optional<double> fraction, bool by_magnitude,
               const std::vector<int64_t>& result_size) {
  const Tensor& like = scores.front();
  const OnDevice device(like);
  Call call(like, by_magnitude);
  std::vector<WorkMask> work;
  for (size_t i = 0; i < scores.size(); ++i) {
    work.emplace_back(masks[i]);
    const Tensor dense = torch::stable::contiguous(scores[i]);
    call.add(dense, dense, work.back().work, together ? 0 : static_cast<int64_t>(i));
  }
  Tensor threshold = torch::stable::new_empty(like, result_size, like.scalar_type());
  Tensor grown = torch::stable::new_empty(like, result_size, ScalarType::Long);
  Tensor pruned = torch::stable::new_empty(like, result_size, ScalarType::Long);
  Tensor wanted = torch::stable::new_empty(like, result_size, ScalarType::Long);
  const SelectParams params = call.start(keep, device.stream());
  select(params, RankedBy::kAll, device.stream());
  update_masks(params, max_swaps.value_or(kUnbounded), fraction.value_or(1), device.stream());
  write_results(
      params,
      {threshold.data_ptr(), static_cast<int64_t*>(grown.data_ptr()),
       static_cast<int64_t*>(pruned.data_ptr()), static_cast<int64_t*>(wanted.data_ptr())},
      device.stream());
  check_launch(op, cudaGetLastError());
  for (WorkMask& mask : work) mask.finish();
  return {threshold, grown, pruned, wanted};
}

// New masks of the best entries of each row, or of all tensors together.
std::vector<Tensor> new_masks(const char* op, const std::vector<Tensor>& scores,
                              const std::vector<int64_t>& keep, bool by_magnitude) {
  const OnDevice device(scores.front());
  Call call(scores.front(), by_magnitude);
  std::vector<Tensor> masks;
  for (const Tensor& tensor : scores) {
    const Tensor dense = torch::stable::contiguous(tensor);
    masks.push_back(torch::stable::new_empty(dense, dense.sizes(), ScalarType::Bool));
    call.add(dense, dense, masks.back(), 0);
  }
  const SelectParams params = call.start(keep, device.stream());
  select(params, RankedBy::kAll, device.stream());
  write_masks(params, device.stream());
  check_launch(op, cudaGetLastError());
  return masks;
}

Tensor topk_mask_cuda(const Tensor& scores, int64_t keep, bool by_magnitude) {
  constexpr const char* kOp = "topk_mask";
  check_scores(kOp, scores, scores.scalar_type());
  STD_TORCH_CHECK(scores.dim() == 2, kOp, ": scores must be [rows, n], got shape ",
                  shape_text(scores));
  check_keep(kOp, keep, scores.size(1));
  const int64_t rows = scores.size(0), n = scores.size(1);
  if (rows == 1 && n > kBlockRow) return new_masks(kOp, {scores}, {keep}, by_magnitude).front();
  const OnDevice device(scores);
  const Tensor dense = torch::stable::contiguous(scores);
  Tensor mask = torch::stable::new_empty(dense, {rows, n}, ScalarType::Bool);
  const StorageType storage = storage_type(scores.scalar_type());
  const auto out = static_cast<bool*>(mask.data_ptr());
  if (n <= kShortRow) {  // a row is a group; a block for each would be mostly idle
    check_launch(kOp, nm_mask({dense.data_ptr(), out, rows, n, 1, keep, storage, by_magnitude},
                              device.stream()));
    return mask;
  }
  topk_rows({dense.data_ptr(), out, rows, n, keep, storage, by_magnitude}, device.stream());
  check_launch(kOp, cudaGetLastError());
  return mask;
}

std::vector<Tensor> global_topk_mask_cuda(std::vector<Tensor> scores, int64_t keep,
                                          bool by_magnitude) {
  constexpr const char* kOp = "global_topk_mask";
  check_scores_list(kOp, scores);
  check_keep(kOp, keep, numel_of_all(scores));
  return new_masks(kOp, scores, {keep}, by_magnitude);
}

Tensor nm_mask_cuda(const Tensor& scores, int64_t n, int64_t m, int64_t dim, bool by_magnitude) {
  check_groups(scores, n, m, dim, kGroupMost);
  const OnDevice device(scores);
  const Tensor dense = torch::stable::contiguous(scores);
  Tensor mask = torch::stable::new_empty(dense, dense.sizes(), ScalarType::Bool);
  int64_t inner = 1;
  for (int64_t i = dim + 1; i < scores.dim(); ++i) inner *= scores.size(i);
  const int64_t blocks = scores.numel() == 0 ? 0 : scores.numel() / (m * inner);
  check_launch("nm_mask", nm_mask({dense.data_ptr(), static_cast<bool*>(mask.data_ptr()), blocks, m,
                                   inner, n, storage_type(scores.scalar_type()), by_magnitude},
                                  device.stream()));
  return mask;
}

Updated update_topk_mask_cuda(Tensor mask, const Tensor& scores, int64_t keep,
                              std::optional<int64_t> max_swaps, std::optional<double> fraction,
                              bool by_magnitude, std::optional<Tensor> hint) {
  constexpr const char* kOp = "update_topk_mask_";
  check_masks(kOp, {mask}, {scores});
  check_keep(kOp, keep, scores.numel());
  check_limit(kOp, max_swaps, fraction);
  check_hint(kOp, hint, scores.scalar_type(), 1, scores);
  return update(kOp, {mask}, {scores}, {keep}, true, max_swaps, fraction, by_magnitude, {});
}

Updated update_topk_masks_cuda(std::vector<Tensor> masks, std::vector<Tensor> scores,
                               std::vector<int64_t> keep, std::optional<int64_t> max_swaps,
                               std::optional<double> fraction, bool by_magnitude,
                               std::optional<Tensor> hints) {
  constexpr const char* kOp = "update_topk_masks_";
  check_masks(kOp, masks, scores);
  const auto count = static_cast<int64_t>(scores.size());
  check_keep_list(kOp, keep, scores);
  check_limit(kOp, max_swaps, fraction);
  check_hint(kOp, hints, scores.front().scalar_type(), count, scores.front());
  return update(kOp, masks, scores, keep, false, max_swaps, fraction, by_magnitude, {count});
}

Updated global_update_topk_mask_cuda(std::vector<Tensor> masks, std::vector<Tensor> scores,
                                     int64_t keep, std::optional<int64_t> max_swaps,
                                     std::optional<double> fraction, bool by_magnitude,
                                     std::optional<Tensor> hint) {
  constexpr const char* kOp = "global_update_topk_mask_";
  check_masks(kOp, masks, scores);
  check_keep(kOp, keep, numel_of_all(scores));
  check_limit(kOp, max_swaps, fraction);
  check_hint(kOp, hint, scores.front().scalar_type(), 1, scores.front());
  return update(kOp, masks, scores, {keep}, true, max_swaps, fraction, by_magnitude, {});
}

std::tuple<Tensor, Tensor, Tensor> rigl_update_cuda(Tensor mask, const Tensor& weight,
                                                    const Tensor& grad, int64_t swaps) {
  constexpr const char* kOp = "rigl_update_";
  check_rigl(kOp, mask, weight, grad, swaps);
  const OnDevice device(weight);
  Call call(weight, true);
  WorkMask work(mask);
  call.add(torch::stable::contiguous(weight), torch::stable::contiguous(grad), work.work, 0);
  Tensor kept = torch::stable::new_empty(weight, {}, weight.scalar_type());
  Tensor grown = torch::stable::new_empty(weight, {}, weight.scalar_type());
  Tensor done = torch::stable::new_empty(weight, {}, ScalarType::Long);
  const SelectParams params = call.start({0}, device.stream());
  rigl_update(params, swaps, device.stream());
  write_rigl_results(params,
                     {kept.data_ptr(), grown.data_ptr(), static_cast<int64_t*>(done.data_ptr())},
                     device.stream());
  check_launch(kOp, cudaGetLastError());
  work.finish();
  return {kept, grown, done};
}

}  // namespace
}  // namespace supertickets::cuda

SUPERTICKETS_CUDA_IMPL(m) {
  m.impl("topk_mask", TORCH_BOX(&supertickets::cuda::topk_mask_cuda));
  m.impl("global_topk_mask", TORCH_BOX(&supertickets::cuda::global_topk_mask_cuda));
  m.impl("nm_mask", TORCH_BOX(&supertickets::cuda::nm_mask_cuda));
  m.impl("update_topk_mask_", TORCH_BOX(&supertickets::cuda::update_topk_mask_cuda));
  m.impl("update_topk_masks_", TORCH_BOX(&supertickets::cuda::update_topk_masks_cuda));
  m.impl("global_update_topk_mask_", TORCH_BOX(&supertickets::cuda::global_update_topk_mask_cuda));
  m.impl("rigl_update_", TORCH_BOX(&supertickets::cuda::rigl_update_cuda));
}

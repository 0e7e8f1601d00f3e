// Binds the top-k CPU kernels to tensors.
#include <algorithm>
#include <tuple>

#include "../core/topk_mask_check.h"
#include "../core/work_mask.h"
#include "nm_mask.h"
#include "tensor_cpu.h"
#include "topk_mask.h"
#include "topk_mask_key_value.h"

namespace supertickets {
namespace {

constexpr int64_t kAloneElements = 1 << 16;   // fewer are not worth all threads
constexpr int64_t kThreadElements = 1 << 15;  // what is worth a thread
constexpr int64_t kTensorElements = 1 << 12;  // that take about as long as a tensor besides

using Updated = std::tuple<Tensor, Tensor, Tensor, Tensor>;

TopkMaskParams topk_params(ScalarType type, bool by_magnitude) {
  return {storage_type(type), by_magnitude, torch_parallel(), selected_isa()};
}

// Itself if contiguous: asking torch for a copy that is none would cost a call for each tensor.
Tensor dense_of(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Piece piece_of(const Tensor& scores, const Tensor& mask) {
  return {scores.data_ptr(), nullptr, static_cast<bool*>(mask.data_ptr()), scores.numel()};
}

std::optional<double> hint_value(const std::optional<Tensor>& hints, size_t i) {
  if (!hints) return std::nullopt;
  const Tensor dense = dense_of(*hints);
  return read_value(dense.data_ptr(), storage_type(hints->scalar_type()), static_cast<int64_t>(i));
}

// Which tensors have all threads, one after another, and which go whole to one thread each: those
// larger than half a thread's share, and the others, shared out from the largest on.
struct Shares {
  std::vector<size_t> alone;
  std::vector<std::vector<size_t>> together;  // by thread
};

Shares share_out(const std::vector<Tensor>& scores, int64_t threads) {
  const auto work = [&](size_t i) { return scores[i].numel() + kTensorElements; };
  int64_t total = 0;
  std::vector<size_t> order(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    order[i] = i;
    total += work(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return work(a) > work(b); });
  Shares shares;
  shares.together.resize(
      static_cast<size_t>(std::clamp<int64_t>(total / kThreadElements, 1, threads)));
  std::vector<int64_t> loads(shares.together.size());
  for (const size_t i : order) {
    if (scores[i].numel() >= kAloneElements && work(i) > total / (2 * threads)) {
      shares.alone.push_back(i);
      continue;
    }
    const auto least = std::min_element(loads.begin(), loads.end());
    *least += work(i);
    shares.together[static_cast<size_t>(least - loads.begin())].push_back(i);
  }
  return shares;
}

// Contiguous; a large one has its memory from the pool.
Tensor empty_mask(const Tensor& scores) {
  if (scores.numel() < static_cast<int64_t>(kPoolBlock)) {
    return torch::stable::new_empty(scores, scores.sizes(), ScalarType::Bool);
  }
  std::vector<int64_t> size;
  std::vector<size_t> order;
  for (int64_t i = 0; i < scores.dim(); ++i) {
    size.push_back(scores.size(i));
    order.push_back(static_cast<size_t>(i));
  }
  return empty_in_order(size, order, ScalarType::Bool);
}

// Results of updates: `count` of them, or one without dimensions.
struct Results {
  Tensor threshold, grown, pruned, wanted;
  ScalarType type;
  Results(const Tensor& like, std::vector<int64_t> size)
      : threshold(torch::stable::new_empty(like, size, like.scalar_type())),
        grown(torch::stable::new_empty(like, size, ScalarType::Long)),
        pruned(torch::stable::new_empty(like, size, ScalarType::Long)),
        wanted(torch::stable::new_empty(like, size, ScalarType::Long)),
        type(like.scalar_type()) {}

  void set(int64_t i, const MaskChange& change) {
    write_value(threshold.data_ptr(), storage_type(type), i, change.threshold);
    static_cast<int64_t*>(grown.data_ptr())[i] = change.grown;
    static_cast<int64_t*>(pruned.data_ptr())[i] = change.pruned;
    static_cast<int64_t*>(wanted.data_ptr())[i] = change.wanted;
  }
  Updated take() { return {threshold, grown, pruned, wanted}; }
};

Tensor topk_mask_cpu(const Tensor& scores, int64_t keep, bool by_magnitude) {
  constexpr const char* kOp = "topk_mask";
  check_scores(kOp, scores, scores.scalar_type());
  STD_TORCH_CHECK(scores.dim() == 2, kOp, ": scores must be [rows, n], got shape ",
                  shape_text(scores));
  check_keep(kOp, keep, scores.size(1));
  const Tensor dense = dense_of(scores);
  Tensor mask = empty_mask(dense);
  const TopkMaskParams params = topk_params(scores.scalar_type(), by_magnitude);
  const int64_t rows = scores.size(0);
  const Piece all = piece_of(dense, mask);
  const int64_t row_bytes = scores.size(1) * static_cast<int64_t>(scores.element_size());
  const auto run_row = [&](int64_t row) {
    topk_mask(params,
              {{static_cast<const char*>(all.scores) + row * row_bytes, nullptr,
                all.mask + row * scores.size(1), scores.size(1)}},
              keep);
  };
  if (rows == 1) {
    run_row(0);
    return mask;
  }
  // Each thread takes whole rows; nested parallel regions run on the thread that opens them.
  parallel_for(torch_parallel(), rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) run_row(row);
  });
  return mask;
}

std::vector<Tensor> global_topk_mask_cpu(std::vector<Tensor> scores, int64_t keep,
                                         bool by_magnitude) {
  constexpr const char* kOp = "global_topk_mask";
  check_scores_list(kOp, scores);
  std::vector<Tensor> dense, masks;
  std::vector<Piece> pieces;
  check_keep(kOp, keep, numel_of_all(scores));
  for (const Tensor& tensor : scores) {
    dense.push_back(dense_of(tensor));
    masks.push_back(empty_mask(dense.back()));
    pieces.push_back(piece_of(dense.back(), masks.back()));
  }
  topk_mask(topk_params(scores.front().scalar_type(), by_magnitude), pieces, keep);
  return masks;
}

Tensor nm_mask_cpu(const Tensor& scores, int64_t n, int64_t m, int64_t dim, bool by_magnitude) {
  check_groups(scores, n, m, dim, kGroupMost);
  const Tensor dense = dense_of(scores);
  Tensor mask = empty_mask(dense);
  NmMaskJob job;
  job.scores = dense.data_ptr();
  job.mask = static_cast<bool*>(mask.data_ptr());
  job.m = m;
  job.n = n;
  for (int64_t i = dim + 1; i < scores.dim(); ++i) job.inner *= scores.size(i);
  if (scores.numel() == 0) return mask;
  job.blocks = scores.numel() / (m * job.inner);
  nm_mask(storage_type(scores.scalar_type()), by_magnitude, job, torch_parallel(), selected_isa());
  return mask;
}

Updated update_topk_mask_cpu(Tensor mask, const Tensor& scores, int64_t keep,
                             std::optional<int64_t> max_swaps, std::optional<double> fraction,
                             bool by_magnitude, std::optional<Tensor> hint) {
  constexpr const char* kOp = "update_topk_mask_";
  const ScalarType type = scores.scalar_type();
  check_scores(kOp, scores, type);
  check_mask(kOp, mask, scores);
  check_keep(kOp, keep, scores.numel());
  check_limit(kOp, max_swaps, fraction);
  check_hint(kOp, hint, type, 1, scores);
  const Tensor dense = dense_of(scores);
  WorkMask work(mask);
  Results results(scores, {});
  results.set(0, update_topk_mask(topk_params(type, by_magnitude), {piece_of(dense, work.work)},
                                  keep, {max_swaps, fraction}, hint_value(hint, 0)));
  work.finish();
  return results.take();
}

Updated update_topk_masks_cpu(std::vector<Tensor> masks, std::vector<Tensor> scores,
                              std::vector<int64_t> keep, std::optional<int64_t> max_swaps,
                              std::optional<double> fraction, bool by_magnitude,
                              std::optional<Tensor> hints) {
  constexpr const char* kOp = "update_topk_masks_";
  check_masks(kOp, masks, scores);
  const auto count = static_cast<int64_t>(scores.size());
  check_keep_list(kOp, keep, scores);
  check_limit(kOp, max_swaps, fraction);
  const ScalarType type = scores.front().scalar_type();
  check_hint(kOp, hints, type, count, scores.front());
  std::vector<Tensor> dense;
  std::vector<WorkMask> work;
  for (size_t i = 0; i < scores.size(); ++i) {
    dense.push_back(dense_of(scores[i]));
    work.emplace_back(masks[i]);
  }
  Results results(scores.front(), {count});
  const TopkMaskParams params = topk_params(type, by_magnitude);
  const auto run = [&](size_t i) {
    results.set(static_cast<int64_t>(i),
                update_topk_mask(params, {piece_of(dense[i], work[i].work)}, keep[i],
                                 {max_swaps, fraction}, hint_value(hints, i)));
  };
  const Shares shares = share_out(dense, std::max<int64_t>(params.parallel.threads, 1));
  for (const size_t i : shares.alone) run(i);
  // Nested parallel regions run on the thread that opens them.
  parallel_for(params.parallel, static_cast<int64_t>(shares.together.size()), 1,
               [&](int64_t begin, int64_t end) {
                 for (int64_t thread = begin; thread < end; ++thread) {
                   for (const size_t i : shares.together[static_cast<size_t>(thread)]) run(i);
                 }
               });
  for (WorkMask& mask : work) mask.finish();
  return results.take();
}

Updated global_update_topk_mask_cpu(std::vector<Tensor> masks, std::vector<Tensor> scores,
                                    int64_t keep, std::optional<int64_t> max_swaps,
                                    std::optional<double> fraction, bool by_magnitude,
                                    std::optional<Tensor> hint) {
  constexpr const char* kOp = "global_update_topk_mask_";
  check_masks(kOp, masks, scores);
  const ScalarType type = scores.front().scalar_type();
  check_limit(kOp, max_swaps, fraction);
  check_hint(kOp, hint, type, 1, scores.front());
  std::vector<Tensor> dense;
  std::vector<WorkMask> work;
  std::vector<Piece> pieces;
  check_keep(kOp, keep, numel_of_all(scores));
  for (size_t i = 0; i < scores.size(); ++i) {
    dense.push_back(dense_of(scores[i]));
    work.emplace_back(masks[i]);
    pieces.push_back(piece_of(dense.back(), work.back().work));
  }
  Results results(scores.front(), {});
  results.set(0, update_topk_mask(topk_params(type, by_magnitude), pieces, keep,
                                  {max_swaps, fraction}, hint_value(hint, 0)));
  for (WorkMask& mask : work) mask.finish();
  return results.take();
}

std::tuple<Tensor, Tensor, Tensor> rigl_update_cpu(Tensor mask, const Tensor& weight,
                                                   const Tensor& grad, int64_t swaps) {
  constexpr const char* kOp = "rigl_update_";
  const ScalarType type = weight.scalar_type();
  check_rigl(kOp, mask, weight, grad, swaps);
  const Tensor dense = dense_of(weight);
  const Tensor dense_grad = dense_of(grad);
  WorkMask work(mask);
  Piece piece = piece_of(dense, work.work);
  piece.other = dense_grad.data_ptr();
  const RiglChange change = rigl_update(topk_params(type, true), {piece}, swaps);
  work.finish();
  Tensor kept = torch::stable::new_empty(weight, {}, type);
  Tensor grown = torch::stable::new_empty(weight, {}, type);
  Tensor done = torch::stable::new_empty(weight, {}, ScalarType::Long);
  write_value(kept.data_ptr(), storage_type(type), 0, change.kept_weight);
  write_value(grown.data_ptr(), storage_type(type), 0, change.grown_grad);
  *static_cast<int64_t*>(done.data_ptr()) = change.swaps;
  return {kept, grown, done};
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("topk_mask", TORCH_BOX(&supertickets::topk_mask_cpu));
  m.impl("global_topk_mask", TORCH_BOX(&supertickets::global_topk_mask_cpu));
  m.impl("nm_mask", TORCH_BOX(&supertickets::nm_mask_cpu));
  m.impl("update_topk_mask_", TORCH_BOX(&supertickets::update_topk_mask_cpu));
  m.impl("update_topk_masks_", TORCH_BOX(&supertickets::update_topk_masks_cpu));
  m.impl("global_update_topk_mask_", TORCH_BOX(&supertickets::global_update_topk_mask_cpu));
  m.impl("rigl_update_", TORCH_BOX(&supertickets::rigl_update_cpu));
}

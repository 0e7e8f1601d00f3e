// Binds the activation pattern CUDA kernels to tensors.
#include "../core/activation_patterns_check.h"
#include "../core/region_patterns_check.h"
#include "activation_patterns.h"
#include "region_patterns.h"
#include "tensor_cuda.h"

namespace supertickets::cuda {
namespace {

void pack_signs_cuda(Tensor patterns, const Tensor& values, int64_t bit) {
  check_pack_signs(patterns, values, bit);
  const OnDevice device(values);
  const Tensor dense = torch::stable::contiguous(values);
  check_launch(
      "pack_signs_",
      pack_signs({dense.data_ptr(), dense.size(0), dense.size(1),
                  static_cast<uint64_t*>(patterns.data_ptr()), patterns.stride(0), bit,
                  storage_type(values.scalar_type()), values.scalar_type() == ScalarType::Bool},
                 device.stream()));
}

Tensor count_patterns_cuda(const Tensor& patterns) {
  constexpr const char* kOp = "count_patterns";
  check_patterns(kOp, patterns);
  const OnDevice device(patterns);
  const Tensor dense = torch::stable::contiguous(patterns);
  Tensor count = torch::stable::new_empty(patterns, {}, ScalarType::Long);
  const int64_t rows = dense.size(0);
  int64_t table = 1;
  while (table < 2 * rows) table *= 2;
  Tensor hashes = torch::stable::new_empty(dense, {rows, 2}, ScalarType::Long);
  Tensor entries = torch::stable::new_empty(dense, {table}, ScalarType::Long);
  check_launch(kOp, count_patterns({static_cast<const uint64_t*>(dense.data_ptr()), rows,
                                    dense.size(1), static_cast<uint64_t*>(hashes.data_ptr()),
                                    static_cast<int64_t*>(entries.data_ptr()), table,
                                    static_cast<int64_t*>(count.data_ptr())},
                                   device.stream()));
  return count;
}

Tensor hamming_gram_cuda(const Tensor& patterns) {
  constexpr const char* kOp = "hamming_gram";
  check_patterns(kOp, patterns);
  const OnDevice device(patterns);
  const Tensor dense = torch::stable::contiguous(patterns);
  const int64_t rows = dense.size(0);
  Tensor result = torch::stable::new_empty(dense, {rows, rows}, ScalarType::Int);
  check_launch(kOp,
               hamming_gram(static_cast<const uint64_t*>(dense.data_ptr()), rows, dense.size(1),
                            static_cast<int32_t*>(result.data_ptr()), device.stream()));
  return result;
}

Tensor region_patterns_cuda(const Tensor& nodes, const Tensor& links, const Tensor& scales,
                            std::vector<Tensor> tensors, const Tensor& x, int64_t batch) {
  const std::vector<RegionNode> table = read_region_table(nodes, links, scales, tensors, x, batch);
  const auto count = static_cast<int64_t>(table.size());
  const int64_t samples = x.size(0), words = (region_bits(table.data(), count) + 63) / 64;
  const OnDevice device(x);
  Tensor patterns = torch::stable::new_empty(x, {samples, words}, ScalarType::Long);
  const Tensor dense = torch::stable::contiguous(x);
  Tensor values = torch::stable::new_empty(x, {region_floats(table.data(), count, samples, batch)},
                                           ScalarType::Float);
  check_launch("region_patterns",
               region_patterns({table.data(), count, static_cast<const float*>(dense.data_ptr()),
                                samples, batch, static_cast<uint64_t*>(patterns.data_ptr()), words,
                                static_cast<float*>(values.data_ptr())},
                               device.stream()));
  return patterns;
}

}  // namespace
}  // namespace supertickets::cuda

SUPERTICKETS_CUDA_IMPL(m) {
  m.impl("pack_signs_", TORCH_BOX(&supertickets::cuda::pack_signs_cuda));
  m.impl("count_patterns", TORCH_BOX(&supertickets::cuda::count_patterns_cuda));
  m.impl("hamming_gram", TORCH_BOX(&supertickets::cuda::hamming_gram_cuda));
  m.impl("region_patterns", TORCH_BOX(&supertickets::cuda::region_patterns_cuda));
}

// Binds the activation pattern CPU kernels to tensors.
#include "../core/activation_patterns_check.h"
#include "activation_patterns.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

void pack_signs_cpu(Tensor patterns, const Tensor& values, int64_t bit) {
  check_pack_signs(patterns, values, bit);
  const Tensor dense = torch::stable::contiguous(values);
  pack_signs({dense.data_ptr(), dense.size(0), dense.size(1), dense.size(1),
              static_cast<uint64_t*>(patterns.data_ptr()), patterns.stride(0), bit,
              storage_type(values.scalar_type()), values.scalar_type() == ScalarType::Bool,
              torch_parallel(), selected_isa()});
}

PatternParams pattern_params(const Tensor& patterns) {
  return {static_cast<const uint64_t*>(patterns.data_ptr()), patterns.size(0), patterns.size(1),
          torch_parallel(), selected_isa()};
}

Tensor count_patterns_cpu(const Tensor& patterns) {
  check_patterns("count_patterns", patterns);
  Tensor result = torch::stable::new_empty(patterns, {}, ScalarType::Long);
  const Tensor dense = torch::stable::contiguous(patterns);
  *static_cast<int64_t*>(result.data_ptr()) = count_patterns(pattern_params(dense));
  return result;
}

Tensor hamming_gram_cpu(const Tensor& patterns) {
  check_patterns("hamming_gram", patterns);
  const Tensor dense = torch::stable::contiguous(patterns);
  Tensor result = torch::stable::new_empty(dense, {dense.size(0), dense.size(0)}, ScalarType::Int);
  hamming_gram(pattern_params(dense), static_cast<int32_t*>(result.data_ptr()));
  return result;
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("pack_signs_", TORCH_BOX(&supertickets::pack_signs_cpu));
  m.impl("count_patterns", TORCH_BOX(&supertickets::count_patterns_cpu));
  m.impl("hamming_gram", TORCH_BOX(&supertickets::hamming_gram_cpu));
}

// Binds the activation patterns of small networks to tensors.
#include "../core/region_patterns_check.h"
#include "region_patterns.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

Tensor region_patterns_cpu(const Tensor& nodes, const Tensor& links, const Tensor& scales,
                           std::vector<Tensor> tensors, const Tensor& x, int64_t batch) {
  const std::vector<RegionNode> table = read_region_table(nodes, links, scales, tensors, x, batch);
  const int64_t count = nodes.size(0);
  const int64_t words = (region_bits(table.data(), count) + 63) / 64;
  Tensor patterns = torch::stable::new_empty(x, {x.size(0), words}, ScalarType::Long);
  const Tensor dense = torch::stable::contiguous(x);
  region_patterns({table.data(), count, static_cast<const float*>(dense.data_ptr()), x.size(0),
                   batch, static_cast<uint64_t*>(patterns.data_ptr()), words, torch_parallel(),
                   selected_isa()});
  return patterns;
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("region_patterns", TORCH_BOX(&supertickets::region_patterns_cpu));
}

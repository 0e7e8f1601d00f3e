// Binds bit packing to tensors.
#include "../core/pack_mask_check.h"
#include "pack_mask.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

Tensor pack_mask_cpu(const Tensor& mask) {
  check_unpacked(mask);
  const Tensor dense = torch::stable::contiguous(mask);
  const int64_t count = dense.numel();
  Tensor bits = torch::stable::new_empty(dense, {(count + 7) / 8}, ScalarType::Byte);
  pack_mask(static_cast<const bool*>(dense.data_ptr()), count,
            static_cast<uint8_t*>(bits.data_ptr()), torch_parallel(), selected_isa());
  return bits;
}

Tensor unpack_mask_cpu(const Tensor& packed, std::vector<int64_t> size) {
  Tensor mask = torch::stable::new_empty(packed, size, ScalarType::Bool);
  check_packed(packed, mask);
  const Tensor dense = torch::stable::contiguous(packed);
  unpack_mask(static_cast<const uint8_t*>(dense.data_ptr()), mask.numel(),
              static_cast<bool*>(mask.data_ptr()), torch_parallel(), selected_isa());
  return mask;
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("pack_mask", TORCH_BOX(&supertickets::pack_mask_cpu));
  m.impl("unpack_mask", TORCH_BOX(&supertickets::unpack_mask_cpu));
}

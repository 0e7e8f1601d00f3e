// Binds bit packing to tensors.
#include "pack_mask.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

Tensor pack_mask_cpu(const Tensor& mask) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool && mask.is_cpu(),
                  "pack_mask: mask must be bool on the CPU");
  const Tensor dense = torch::stable::contiguous(mask);
  const int64_t count = dense.numel();
  Tensor bits = torch::stable::new_empty(dense, {(count + 7) / 8}, ScalarType::Byte);
  pack_mask(static_cast<const bool*>(dense.data_ptr()), count,
            static_cast<uint8_t*>(bits.data_ptr()), torch_parallel(), selected_isa());
  return bits;
}

Tensor unpack_mask_cpu(const Tensor& packed, std::vector<int64_t> size) {
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_cpu() && packed.dim() == 1,
                  "unpack_mask: packed must be one-dimensional uint8 on the CPU");
  Tensor mask = torch::stable::new_empty(packed, size, ScalarType::Bool);
  const int64_t count = mask.numel();
  STD_TORCH_CHECK(packed.numel() == (count + 7) / 8, "unpack_mask: packed must hold ",
                  (count + 7) / 8, " bytes for size ", shape_text(mask), ", got ", packed.numel());
  const Tensor dense = torch::stable::contiguous(packed);
  unpack_mask(static_cast<const uint8_t*>(dense.data_ptr()), count,
              static_cast<bool*>(mask.data_ptr()), torch_parallel(), selected_isa());
  return mask;
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("pack_mask", TORCH_BOX(&supertickets::pack_mask_cpu));
  m.impl("unpack_mask", TORCH_BOX(&supertickets::unpack_mask_cpu));
}

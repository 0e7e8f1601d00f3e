// Binds bit packing on the GPU to tensors.
#include "../core/pack_mask_check.h"
#include "pack_mask.h"
#include "tensor_cuda.h"

namespace supertickets::cuda {
namespace {

Tensor pack_mask_cuda(const Tensor& mask) {
  check_unpacked(mask);
  const OnDevice device(mask);
  const Tensor dense = torch::stable::contiguous(mask);
  const int64_t count = dense.numel();
  Tensor bits = torch::stable::new_empty(dense, {(count + 7) / 8}, ScalarType::Byte);
  check_launch("pack_mask", pack_mask(static_cast<const bool*>(dense.data_ptr()), count,
                                      static_cast<uint8_t*>(bits.data_ptr()), device.stream()));
  return bits;
}

Tensor unpack_mask_cuda(const Tensor& packed, std::vector<int64_t> size) {
  const OnDevice device(packed);
  Tensor mask = torch::stable::new_empty(packed, size, ScalarType::Bool);
  check_packed(packed, mask);
  const Tensor dense = torch::stable::contiguous(packed);
  check_launch("unpack_mask",
               unpack_mask(static_cast<const uint8_t*>(dense.data_ptr()), mask.numel(),
                           static_cast<bool*>(mask.data_ptr()), device.stream()));
  return mask;
}

}  // namespace
}  // namespace supertickets::cuda

SUPERTICKETS_CUDA_IMPL(m) {
  m.impl("pack_mask", TORCH_BOX(&supertickets::cuda::pack_mask_cuda));
  m.impl("unpack_mask", TORCH_BOX(&supertickets::cuda::unpack_mask_cuda));
}

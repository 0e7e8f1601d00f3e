// Binds the kernels of the dense route to tensors.
#include <tuple>

#include "../core/masked_weight_check.h"
#include "maps_cuda.h"

namespace supertickets::cuda {
namespace {

// Tensors of one shape in one order of memory, which the kernels then walk along.
class SameOrder {
 public:
  SameOrder(const Tensor& weight, const Tensor& mask)
      : channels_last_(is_mask(mask) && weight.dim() == 4 && is_channels_last(weight)),
        weight_(ordered(weight)),
        mask_(is_mask(mask) ? ordered(mask) : torch::stable::contiguous(mask)) {}

  Tensor ordered(const Tensor& tensor) const {
    if (!channels_last_) return torch::stable::contiguous(tensor);
    if (is_channels_last(tensor)) return tensor;
    Tensor copy = empty(tensor);
    return torch::stable::copy_(copy, tensor);
  }

  Tensor empty(const Tensor& like) const {
    if (!channels_last_) return torch::stable::new_empty(like, like.sizes());
    return empty_map(like, {like.size(0), like.size(1), like.size(2), like.size(3)}, true);
  }

  MaskedWeightParams params() const {
    const bool bytes = is_mask(mask_);
    return {weight_.numel(), weight_.data_ptr(),
            bytes ? static_cast<const bool*>(mask_.data_ptr()) : nullptr,
            bytes ? nullptr : static_cast<const uint8_t*>(mask_.data_ptr()),
            storage_type(weight_.scalar_type())};
  }

 private:
  static bool is_mask(const Tensor& mask) { return mask.scalar_type() == ScalarType::Bool; }

  bool channels_last_;
  Tensor weight_, mask_;
};

Tensor masked_weight_cuda(const Tensor& weight, const Tensor& mask) {
  constexpr const char* kOp = "masked_weight";
  check_masked_weight(kOp, weight, mask);
  const OnDevice device(weight);
  const SameOrder order(weight, mask);
  Tensor out = order.empty(weight);
  check_launch(kOp, masked_weight(order.params(), out.data_ptr(), device.stream()));
  return out;
}

std::tuple<Tensor, Tensor> masked_weight_grad_cuda(const Tensor& grad, const Tensor& weight,
                                                   const Tensor& mask, bool wants_weight,
                                                   bool wants_scores) {
  constexpr const char* kOp = "masked_weight_grad";
  check_masked_weight(kOp, weight, mask);
  check_floating(kOp, "grad", grad, weight);
  STD_TORCH_CHECK(same_shape(grad, weight), kOp, ": grad must have weight's shape, got ",
                  shape_text(grad));
  const OnDevice device(weight);
  const SameOrder order(weight, mask);
  const Tensor from = order.ordered(grad);
  const auto result = [&](bool wanted) {
    return wanted ? order.empty(weight) : torch::stable::new_empty(weight, {0});
  };
  Tensor to_weight = result(wants_weight), to_scores = result(wants_scores);
  check_launch(kOp,
               masked_weight_grad(order.params(), from.data_ptr(),
                                  wants_weight ? to_weight.data_ptr() : nullptr,
                                  wants_scores ? to_scores.data_ptr() : nullptr, device.stream()));
  return {to_weight, to_scores};
}

}  // namespace
}  // namespace supertickets::cuda

SUPERTICKETS_CUDA_IMPL(m) {
  m.impl("masked_weight", TORCH_BOX(&supertickets::cuda::masked_weight_cuda));
  m.impl("masked_weight_grad", TORCH_BOX(&supertickets::cuda::masked_weight_grad_cuda));
}

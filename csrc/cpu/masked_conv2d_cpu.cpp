// Binds masked_conv2d's CPU kernels to tensors.
#include "../core/masked_conv2d_check.h"
#include "masked_conv2d.h"
#include "masked_conv2d_plan.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

using torch::headeronly::MemoryFormat;

bool is_channels_last(const Tensor& t) {
  if (t.is_contiguous()) return false;  // a map of one pixel or one channel is both
  int64_t expected = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    if (t.size(dim) != 1 && t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

// Uninitialised, in the memory format of `like`.
Tensor empty_in_format(const Tensor& like, const std::array<int64_t, 4>& size) {
  const auto format =
      is_channels_last(like) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  return torch::stable::empty(size, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              format);
}

// What kernels read directly: contiguous, in the accumulator's type.
Tensor dense_accumulator(const Tensor& tensor) {
  return torch::stable::contiguous(
      torch::stable::to(tensor, accumulator_type(tensor.scalar_type())));
}

// Kernel parameters and the tensors they point into.
struct Prepared {
  MaskedConv2dParams params;
  std::optional<Tensor> weight, mask, bias;
};

Prepared prepare(const Conv2dShape& shape, ScalarType type, const std::optional<Tensor>& weight,
                 const std::optional<Tensor>& mask, const std::optional<Tensor>& bias) {
  Prepared p;
  p.params.shape = shape;
  p.params.storage = storage_type(type);
  p.params.parallel = torch_parallel();
  p.params.isa = selected_isa();
  if (weight.has_value()) {
    p.weight = dense_accumulator(*weight);
    p.params.weight = p.weight->data_ptr();
  }
  if (mask.has_value()) {
    p.mask = torch::stable::contiguous(*mask);
    p.params.mask = static_cast<const bool*>(p.mask->data_ptr());
  }
  if (bias.has_value()) {
    p.bias = dense_accumulator(*bias);
    p.params.bias = p.bias->data_ptr();
  }
  return p;
}

std::array<int64_t, 4> size4(const char* op, const char* name, const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(size.size() == 4, op, ": ", name, " must have 4 entries, got ", size.size());
  for (const int64_t n : size) STD_TORCH_CHECK(n >= 0, op, ": ", name, " must not be negative");
  return {size[0], size[1], size[2], size[3]};
}

Tensor masked_conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& mask,
                     const std::optional<Tensor>& bias, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups) {
  constexpr const char* kOp = "masked_conv2d";
  check_floating(kOp, "x", x, x.scalar_type());
  check_floating(kOp, "weight", weight, x.scalar_type());
  const auto weight_size = sizes4(kOp, "weight", weight);
  const Conv2dShape shape =
      conv2d_shape(kOp, sizes4(kOp, "x", x), weight_size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, weight_size);
  if (bias.has_value()) {
    check_floating(kOp, "bias", *bias, x.scalar_type());
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == shape.filters, kOp,
                    ": bias must have shape (", shape.filters, ",), got ", shape_text(*bias));
  }
  Tensor y = empty_in_format(x, {shape.batch, shape.filters, shape.out_height, shape.out_width});
  const Prepared p = prepare(shape, x.scalar_type(), weight, mask, bias);
  masked_conv2d_forward(p.params, strided(x), strided(y));
  return y;
}

Tensor masked_conv2d_grad_input_cpu(const Tensor& grad_output, const Tensor& weight,
                                    const std::optional<Tensor>& mask,
                                    std::vector<int64_t> input_size, std::vector<int64_t> stride,
                                    std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                    int64_t groups) {
  constexpr const char* kOp = "masked_conv2d_grad_input";
  check_floating(kOp, "grad_output", grad_output, grad_output.scalar_type());
  check_floating(kOp, "weight", weight, grad_output.scalar_type());
  const auto weight_size = sizes4(kOp, "weight", weight);
  const auto size = size4(kOp, "input_size", input_size);
  const Conv2dShape shape =
      conv2d_shape(kOp, size, weight_size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, weight_size);
  check_grad_output(kOp, grad_output, shape);
  Tensor grad = empty_in_format(grad_output, size);
  if (grad_output.numel() == 0 || grad_input_has_gaps(shape)) torch::stable::zero_(grad);
  const Prepared p = prepare(shape, grad.scalar_type(), weight, mask, std::nullopt);
  masked_conv2d_grad_input(p.params, strided(grad_output), strided(grad));
  return grad;
}

Tensor masked_conv2d_grad_weight_cpu(const Tensor& grad_output, const Tensor& x,
                                     const std::optional<Tensor>& mask,
                                     std::vector<int64_t> weight_size, std::vector<int64_t> stride,
                                     std::vector<int64_t> padding, std::vector<int64_t> dilation,
                                     int64_t groups) {
  constexpr const char* kOp = "masked_conv2d_grad_weight";
  check_floating(kOp, "x", x, x.scalar_type());
  check_floating(kOp, "grad_output", grad_output, x.scalar_type());
  const auto size = size4(kOp, "weight_size", weight_size);
  const Conv2dShape shape =
      conv2d_shape(kOp, sizes4(kOp, "x", x), size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, size);
  check_grad_output(kOp, grad_output, shape);
  Tensor grad = torch::stable::new_zeros(x, size, ScalarType::Double);
  const Prepared p = prepare(shape, x.scalar_type(), std::nullopt, mask, std::nullopt);
  masked_conv2d_grad_weight(p.params, strided(grad_output), strided(x),
                            static_cast<double*>(grad.data_ptr()));
  return torch::stable::to(grad, x.scalar_type());
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("masked_conv2d", TORCH_BOX(&supertickets::masked_conv2d));
  m.impl("masked_conv2d_grad_input", TORCH_BOX(&supertickets::masked_conv2d_grad_input_cpu));
  m.impl("masked_conv2d_grad_weight", TORCH_BOX(&supertickets::masked_conv2d_grad_weight_cpu));
}

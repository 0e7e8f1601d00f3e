// Binds the Jacobian CUDA kernels to tensors.
#include <tuple>

#include "../core/jacobian_check.h"
#include "jacobian.h"
#include "tensor_cuda.h"

namespace supertickets::cuda {
namespace {

using Options = std::vector<int64_t>;

bool is_wide(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double; }

const void* data_of(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->data_ptr() : nullptr;
}

std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

std::tuple<Tensor, Tensor> jacobian_conv2d_rows_cuda(
    const Tensor& grad_output, const Tensor& x, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& scale, const std::optional<Tensor>& weight, Options weight_size,
    int64_t images_per_row, Options stride, Options padding, Options dilation, int64_t groups) {
  constexpr const char* kOp = "jacobian_conv2d_rows";
  const auto size = weight_size4(kOp, weight_size);
  const Conv2dShape shape = check_conv2d_rows(grad_output, x, mask, scale, weight, size,
                                              images_per_row, {stride, padding, dilation, groups});
  STD_TORCH_CHECK(shape.out_height * shape.out_width <= INT32_MAX, kOp,
                  ": on CUDA, the output's map must have at most 2^31 pixels, got ",
                  shape.out_height * shape.out_width);
  const OnDevice device(x);
  const int64_t rows = grad_output.size(0) / images_per_row;
  const bool empty = grad_output.numel() == 0 || x.numel() == 0;
  const std::vector<int64_t> out_size = {rows, size[0], size[1], size[2], size[3]};
  Tensor out =
      empty ? torch::stable::new_zeros(x, out_size) : torch::stable::new_empty(x, out_size);
  Tensor dots = torch::stable::new_zeros(x, {weight.has_value() ? rows : 0, shape.filters});
  if (empty) return {out, dots};
  const Tensor grads = torch::stable::contiguous(grad_output),
               inputs = torch::stable::contiguous(x);
  const std::optional<Tensor> kept = dense(mask), factors = dense(scale), weights = dense(weight);
  check_launch(kOp, conv_rows({shape, rows, images_per_row, is_wide(x), grads.data_ptr(),
                               inputs.data_ptr(), static_cast<const bool*>(data_of(kept)),
                               data_of(factors), data_of(weights), out.data_ptr(), dots.data_ptr()},
                              device.stream()));
  return {out, dots};
}

void jacobian_gram_cuda(Tensor gram, const Tensor& one, const std::optional<Tensor>& two) {
  constexpr const char* kOp = "jacobian_gram_";
  check_gram(gram, one, two);
  const OnDevice device(one);
  const Tensor left = torch::stable::contiguous(one);
  const Tensor right = two.has_value() ? torch::stable::contiguous(*two) : left;
  GramParams params{left.data_ptr(), right.data_ptr(), left.size(0),
                    right.size(0),   left.size(1),     !two.has_value(),
                    is_wide(one),    nullptr,          static_cast<double*>(gram.data_ptr())};
  const Tensor partial = workspace(gram, gram_bytes(params));
  params.partial = static_cast<double*>(partial.data_ptr());
  check_launch(kOp, add_gram(params, device.stream()));
}

}  // namespace
}  // namespace supertickets::cuda

SUPERTICKETS_CUDA_IMPL(m) {
  m.impl("jacobian_conv2d_rows", TORCH_BOX(&supertickets::cuda::jacobian_conv2d_rows_cuda));
  m.impl("jacobian_gram_", TORCH_BOX(&supertickets::cuda::jacobian_gram_cuda));
}

// Binds the masked convolution CUDA kernels to tensors.
#include "../core/masked_conv2d_check.h"
#include "maps_cuda.h"
#include "masked_conv2d.h"
#include "tensor_cuda.h"

namespace supertickets::cuda {
namespace {

using Options = std::vector<int64_t>;

// Places are counted in 32 bits, elements in 64.
void check_limits(const char* op, const Conv2dShape& s) {
  const auto below = [&](const char* name, int64_t value, int64_t most) {
    STD_TORCH_CHECK(value <= most, op, ": on CUDA, ", name, " must be at most ", most, ", got ",
                    value);
  };
  below("pixels of the input's map", s.height * s.width, kPixelsMost);
  below("pixels of the output's map", s.out_height * s.out_width, kPixelsMost);
  below("padding", s.pad_top > s.pad_left ? s.pad_top : s.pad_left, kPixelsMost);
  below("stride", s.stride_height > s.stride_width ? s.stride_height : s.stride_width, kPixelsMost);
  below("rows of the dilated kernel", s.dilation_height * s.kernel_height, kPixelsMost);
  below("columns of the dilated kernel", s.dilation_width * s.kernel_width, kPixelsMost);
  below("weights of a filter", s.taps(), int64_t{1} << 30);
  below("weights of a channel", s.group_filters() * s.kernel_height * s.kernel_width,
        int64_t{1} << 30);
  below("filters", s.filters, INT32_MAX);
  below("channels", s.channels, INT32_MAX);
}

// Contiguous tensors stay alive with the rows that are made of them.
struct GatheredRows {
  TapRows rows;
  Tensor memory;
};

const bool* data_of(const std::optional<Tensor>& mask) {
  return mask.has_value() ? static_cast<const bool*>(mask->data_ptr()) : nullptr;
}

std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

// like: of the weight's type, on its device.
GatheredRows gathered(const char* op, TapRows rows, const Tensor& like,
                      const std::optional<Tensor>& weight, const std::optional<Tensor>& mask,
                      cudaStream_t stream) {
  const std::optional<Tensor> values = dense(weight), kept = dense(mask);
  const StorageType storage = storage_type(like.scalar_type());
  GatheredRows result{rows, workspace(like, rows_bytes(rows, storage))};
  put_rows(result.rows, result.memory.data_ptr());
  check_launch(op, gather_rows(result.rows, values.has_value() ? values->data_ptr() : nullptr,
                               data_of(kept), storage, stream));
  return result;
}

// Whether the maps are convolved as they lie in memory.
bool is_depthwise(const Tensor& x, const Conv2dShape& shape) {
  return !is_lanes(x) && shape.groups == shape.channels;
}

Tensor depthwise_of(const char* op, const Tensor& x, const Tensor& weight,
                    const std::optional<Tensor>& mask, const std::optional<Tensor>& bias,
                    const std::array<int64_t, 4>& size, ConvSumParams sum, cudaStream_t stream) {
  const bool last = is_channels_last(x);
  const Tensor in = last ? x : torch::stable::contiguous(x);
  const Tensor values = torch::stable::contiguous(weight);
  const std::optional<Tensor> kept = dense(mask), added = dense(bias);
  Tensor out = empty_map(x, size, last);
  sum.images = x.size(0);
  sum.inner = 1;
  sum.in = in.data_ptr();
  sum.out = out.data_ptr();
  sum.bias = added.has_value() ? added->data_ptr() : nullptr;
  check_launch(op, depthwise({sum, last, values.data_ptr(), data_of(kept)}, stream));
  return out;
}

// The convolution of x with rows that have been gathered; `sum` has rows, axes and planes.
Tensor sum_of(const char* op, const Tensor& x, const std::array<int64_t, 4>& size,
              const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
              ConvSumParams sum, cudaStream_t stream) {
  const Layout layout = layout_of(x);
  const Tensor in = readable(op, x, layout, stream);
  Output out(x, size, layout);
  const std::optional<Tensor> added = dense(bias);
  std::optional<Tensor> more;
  if (residual.has_value()) more = readable(op, *residual, layout, stream);
  sum.images = in.size(0);
  sum.inner = inner_of(layout);
  sum.in = in.data_ptr();
  sum.out = out.written().data_ptr();
  sum.bias = added.has_value() ? added->data_ptr() : nullptr;
  sum.residual = more.has_value() ? more->data_ptr() : nullptr;
  check_launch(op, conv_sum(sum, stream));
  return out.finish(op, stream);
}

ConvSumParams forward_sum(const Conv2dShape& shape, const Tensor& x) {
  ConvSumParams sum{};
  sum.rows = forward_rows(shape);
  sum.axes = forward_axes(shape);
  sum.in_planes = shape.channels;
  sum.group_planes = shape.group_channels();
  sum.storage = storage_type(x.scalar_type());
  return sum;
}

std::array<int64_t, 4> output_size(const Conv2dShape& shape) {
  return {shape.batch, shape.filters, shape.out_height, shape.out_width};
}

Tensor masked_conv2d_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& mask,
                          const std::optional<Tensor>& bias, Options stride, Options padding,
                          Options dilation, int64_t groups, const std::optional<Tensor>&) {
  constexpr const char* kOp = "masked_conv2d";
  check_floating(kOp, "x", x, x);
  check_floating(kOp, "weight", weight, x);
  const auto weight_size = sizes4(kOp, "weight", weight);
  const Conv2dShape shape =
      conv2d_shape(kOp, map_sizes(kOp, "x", x), weight_size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, weight_size, x);
  check_bias(kOp, bias, x, shape);
  check_limits(kOp, shape);
  const OnDevice device(x);
  ConvSumParams sum = forward_sum(shape, x);
  if (is_depthwise(x, shape)) {
    return depthwise_of(kOp, x, weight, mask, bias, output_size(shape), sum, device.stream());
  }
  const GatheredRows rows = gathered(kOp, sum.rows, x, weight, mask, device.stream());
  sum.rows = rows.rows;
  return sum_of(kOp, x, output_size(shape), bias, std::nullopt, sum, device.stream());
}

Tensor masked_conv2d_grad_input_cuda(const Tensor& grad_output, const Tensor& weight,
                                     const std::optional<Tensor>& mask, Options input_size,
                                     Options stride, Options padding, Options dilation,
                                     int64_t groups, const std::optional<Tensor>&) {
  constexpr const char* kOp = "masked_conv2d_grad_input";
  check_floating(kOp, "grad_output", grad_output, grad_output);
  check_floating(kOp, "weight", weight, grad_output);
  const auto weight_size = sizes4(kOp, "weight", weight);
  const auto size = map_size4(kOp, "input_size", input_size);
  const Conv2dShape shape =
      conv2d_shape(kOp, size, weight_size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, weight_size, grad_output);
  check_output_like(kOp, "grad_output", grad_output, input_size.size() == 5, shape);
  check_limits(kOp, shape);
  const OnDevice device(grad_output);
  ConvSumParams sum{};
  sum.rows = grad_input_rows(shape);
  sum.axes = grad_input_axes(shape);
  sum.in_planes = shape.filters;
  sum.group_planes = shape.group_filters();
  sum.storage = storage_type(grad_output.scalar_type());
  if (is_depthwise(grad_output, shape)) {
    return depthwise_of(kOp, grad_output, weight, mask, std::nullopt, size, sum, device.stream());
  }
  const GatheredRows rows = gathered(kOp, sum.rows, grad_output, weight, mask, device.stream());
  sum.rows = rows.rows;
  return sum_of(kOp, grad_output, size, std::nullopt, std::nullopt, sum, device.stream());
}

Tensor masked_conv2d_grad_weight_cuda(const Tensor& grad_output, const Tensor& x,
                                      const std::optional<Tensor>& mask, Options weight_size,
                                      Options stride, Options padding, Options dilation,
                                      int64_t groups, const std::optional<Tensor>&) {
  constexpr const char* kOp = "masked_conv2d_grad_weight";
  check_floating(kOp, "x", x, x);
  check_floating(kOp, "grad_output", grad_output, x);
  const auto size = weight_size4(kOp, weight_size);
  const Conv2dShape shape =
      conv2d_shape(kOp, map_sizes(kOp, "x", x), size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, size, x);
  check_output_like(kOp, "grad_output", grad_output, is_lanes(x), shape);
  check_limits(kOp, shape);
  const OnDevice device(x);
  Tensor grad = torch::stable::new_zeros(x, size);
  const GatheredRows rows =
      gathered(kOp, forward_rows(shape), x, std::nullopt, mask, device.stream());
  const Layout layout = layout_of(x);
  const Tensor in = readable(kOp, x, layout, device.stream());
  const Tensor from = readable(kOp, grad_output, layout, device.stream());
  ConvDotParams dot{rows.rows,
                    forward_axes(shape),
                    in.size(0),
                    shape.channels,
                    shape.group_channels(),
                    inner_of(layout),
                    from.data_ptr(),
                    in.data_ptr(),
                    nullptr,
                    grad.data_ptr(),
                    storage_type(x.scalar_type())};
  const Tensor partial = workspace(x, dot_bytes(dot));
  dot.partial = partial.data_ptr();
  check_launch(kOp, conv_dot(dot, device.stream()));
  return grad;
}

// The rows of the forward pass as they lie in memory.
Tensor masked_conv2d_pack_cuda(const Tensor& weight, const std::optional<Tensor>& mask,
                               Options x_size, Options stride, Options padding, Options dilation,
                               int64_t groups) {
  constexpr const char* kOp = "masked_conv2d_pack";
  check_floating(kOp, "weight", weight, weight);
  const auto weight_size = sizes4(kOp, "weight", weight);
  const Conv2dShape shape = conv2d_shape(kOp, map_size4(kOp, "x_size", x_size), weight_size,
                                         {stride, padding, dilation, groups});
  check_mask(kOp, mask, weight_size, weight);
  check_limits(kOp, shape);
  const OnDevice device(weight);
  return gathered(kOp, forward_rows(shape), weight, weight, mask, device.stream()).memory;
}

// What a packed weight holds is on the device, so that only its size is checked.
Tensor masked_conv2d_packed_cuda(const Tensor& x, const Tensor& packed, Options weight_size,
                                 const std::optional<Tensor>& bias,
                                 const std::optional<Tensor>& residual, bool relu, Options stride,
                                 Options padding, Options dilation, int64_t groups) {
  constexpr const char* kOp = "masked_conv2d_packed";
  check_floating(kOp, "x", x, x);
  const Conv2dShape shape =
      conv2d_shape(kOp, map_sizes(kOp, "x", x), weight_size4(kOp, weight_size),
                   {stride, padding, dilation, groups});
  check_bias(kOp, bias, x, shape);
  check_limits(kOp, shape);
  if (residual.has_value()) {
    check_floating(kOp, "residual", *residual, x);
    check_output_like(kOp, "residual", *residual, is_lanes(x), shape);
  }
  ConvSumParams sum = forward_sum(shape, x);
  check_device(kOp, "packed", packed, "x", x);
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.dim() == 1 &&
                      packed.is_contiguous() &&
                      packed.numel() == rows_bytes(sum.rows, sum.storage) &&
                      reinterpret_cast<uintptr_t>(packed.data_ptr()) % 16 == 0,
                  kOp, ": packed must be what masked_conv2d_pack returned for this convolution");
  put_rows(sum.rows, packed.data_ptr());
  sum.relu = relu;
  const OnDevice device(x);
  return sum_of(kOp, x, output_size(shape), bias, residual, sum, device.stream());
}

}  // namespace
}  // namespace supertickets::cuda

SUPERTICKETS_CUDA_IMPL(m) {
  namespace cuda = supertickets::cuda;
  m.impl("masked_conv2d", TORCH_BOX(&cuda::masked_conv2d_cuda));
  m.impl("masked_conv2d_grad_input", TORCH_BOX(&cuda::masked_conv2d_grad_input_cuda));
  m.impl("masked_conv2d_grad_weight", TORCH_BOX(&cuda::masked_conv2d_grad_weight_cuda));
  m.impl("masked_conv2d_pack", TORCH_BOX(&cuda::masked_conv2d_pack_cuda));
  m.impl("masked_conv2d_packed", TORCH_BOX(&cuda::masked_conv2d_packed_cuda));
}

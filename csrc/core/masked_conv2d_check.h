// The argument contract of masked_conv2d, checked first by every back end.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "conv2d_shape.h"
#include "tensor.h"

namespace supertickets {

// stride, dilation: {height, width}; padding: {top, bottom, left, right}.
struct Conv2dOptions {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

// `first` has chosen the back end, and the type of all.
inline void check_floating(const char* op, const char* name, const Tensor& tensor,
                           const Tensor& first) {
  STD_TORCH_CHECK(is_storage_type(tensor.scalar_type()), op, ": ", name,
                  " must be float32, bfloat16, float16 or float64");
  STD_TORCH_CHECK(tensor.scalar_type() == first.scalar_type(), op, ": ", name,
                  " must have the same dtype as the other tensors");
  check_device(op, name, tensor, "the other tensors", first);
}

inline void check_options(const char* op, const Conv2dOptions& options) {
  STD_TORCH_CHECK(options.stride.size() == 2 && options.stride[0] > 0 && options.stride[1] > 0, op,
                  ": stride must be two positive numbers");
  STD_TORCH_CHECK(
      options.dilation.size() == 2 && options.dilation[0] > 0 && options.dilation[1] > 0, op,
      ": dilation must be two positive numbers");
  STD_TORCH_CHECK(options.padding.size() == 4, op, ": padding must be four numbers");
  for (const int64_t pad : options.padding) {
    STD_TORCH_CHECK(pad >= 0, op, ": padding must not be negative, got ", pad);
  }
  STD_TORCH_CHECK(options.groups > 0, op, ": groups must be positive, got ", options.groups);
}

// Input and weight sizes, and what follows from them.
inline Conv2dShape conv2d_shape(const char* op, const std::array<int64_t, 4>& input,
                                const std::array<int64_t, 4>& weight,
                                const Conv2dOptions& options) {
  check_options(op, options);
  Conv2dShape shape{};
  shape.batch = input[0];
  shape.channels = input[1];
  shape.height = input[2];
  shape.width = input[3];
  shape.filters = weight[0];
  shape.kernel_height = weight[2];
  shape.kernel_width = weight[3];
  shape.stride_height = options.stride[0];
  shape.stride_width = options.stride[1];
  shape.pad_top = options.padding[0];
  shape.pad_left = options.padding[2];
  shape.dilation_height = options.dilation[0];
  shape.dilation_width = options.dilation[1];
  shape.groups = options.groups;
  STD_TORCH_CHECK(shape.kernel_height > 0 && shape.kernel_width > 0, op,
                  ": weight must have a kernel of at least 1x1");
  STD_TORCH_CHECK(weight[1] * options.groups == shape.channels, op, ": x must have ",
                  weight[1] * options.groups, " channels (weight's ", weight[1], " x ",
                  options.groups, " groups), got ", shape.channels);
  STD_TORCH_CHECK(shape.filters % options.groups == 0, op, ": groups must divide weight's ",
                  shape.filters, " filters, got ", options.groups);
  const auto out = [&](int64_t size, int64_t before, int64_t after, int64_t kernel,
                       int64_t dilation, int64_t stride) {
    const int64_t room = size + before + after - dilation * (kernel - 1) - 1;
    STD_TORCH_CHECK(room >= 0, op, ": the dilated kernel must fit the padded input, it spans ",
                    dilation * (kernel - 1) + 1, " where the input has ", size + before + after);
    return room / stride + 1;
  };
  shape.out_height = out(shape.height, options.padding[0], options.padding[1], shape.kernel_height,
                         shape.dilation_height, shape.stride_height);
  shape.out_width = out(shape.width, options.padding[2], options.padding[3], shape.kernel_width,
                        shape.dilation_width, shape.stride_width);
  return shape;
}

inline std::array<int64_t, 4> sizes4(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, op, ": ", name, " must have 4 dimensions, got shape ",
                  shape_text(tensor));
  return {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
}

inline void check_mask(const char* op, const std::optional<Tensor>& mask,
                       const std::array<int64_t, 4>& weight, const Tensor& first) {
  if (!mask.has_value()) return;
  STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool, op, ": mask must be bool");
  check_device(op, "mask", *mask, "the other tensors", first);
  STD_TORCH_CHECK(sizes4(op, "mask", *mask) == weight, op, ": mask must have weight's shape, got ",
                  shape_text(*mask));
}

inline constexpr int64_t kLaneWidth = 16;

inline bool is_lanes(const Tensor& tensor) { return tensor.dim() == 5; }

// [N, C, H, W], where N counts groups of 16 images if the tensor is in lanes.
inline std::array<int64_t, 4> map_sizes(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4 || (is_lanes(tensor) && tensor.size(4) == kLaneWidth), op, ": ",
                  name, " must have 4 dimensions, or 5 the last of which is ", kLaneWidth,
                  " (lanes), got shape ", shape_text(tensor));
  return {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
}

// `tensor` must have the output's shape, in lanes or not.
inline void check_output_like(const char* op, const char* name, const Tensor& tensor, bool lanes,
                              const Conv2dShape& shape) {
  const std::array<int64_t, 4> expected = {shape.batch, shape.filters, shape.out_height,
                                           shape.out_width};
  STD_TORCH_CHECK(is_lanes(tensor) == lanes && map_sizes(op, name, tensor) == expected, op, ": ",
                  name, " must have the shape of the output (", expected[0], ", ", expected[1],
                  ", ", expected[2], ", ", expected[3], lanes ? ", 16" : "", "), got ",
                  shape_text(tensor));
}

// `batch` images in groups of 16.
inline void check_lanes(const char* op, const Tensor& lanes, int64_t batch) {
  STD_TORCH_CHECK(is_lanes(lanes) && lanes.size(4) == kLaneWidth, op,
                  ": lanes must have shape (G, C, H, W, 16), got ", shape_text(lanes));
  const int64_t groups = (batch + kLaneWidth - 1) / kLaneWidth;
  STD_TORCH_CHECK(batch >= 0 && groups == lanes.size(0), op, ": batch must be within the last of ",
                  "the ", lanes.size(0), " groups of 16 images, got ", batch);
}

inline std::array<int64_t, 4> weight_size4(const char* op, const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(size.size() == 4, op, ": weight_size must have 4 entries, got ", size.size());
  for (const int64_t n : size) {
    STD_TORCH_CHECK(n >= 0, op, ": weight_size must not be negative, got ", n);
  }
  return {size[0], size[1], size[2], size[3]};
}

// A size of 4 entries, or of 5 in lanes.
inline std::array<int64_t, 4> map_size4(const char* op, const char* name,
                                        const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(size.size() == 4 || (size.size() == 5 && size[4] == kLaneWidth), op, ": ", name,
                  " must have 4 entries, or 5 the last of which is 16 (lanes), got ", size.size());
  for (const int64_t n : size) {
    STD_TORCH_CHECK(n >= 0, op, ": ", name, " must not be negative, got ", n);
  }
  return {size[0], size[1], size[2], size[3]};
}

inline void check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& x,
                       const Conv2dShape& shape) {
  if (!bias.has_value()) return;
  check_floating(op, "bias", *bias, x);
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == shape.filters, op,
                  ": bias must have shape (", shape.filters, ",), got ", shape_text(*bias));
}

}  // namespace supertickets

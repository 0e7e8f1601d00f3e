// Binds masked_conv2d's CPU kernels to tensors.
#include <cstring>

#include "../core/masked_conv2d_check.h"
#include "masked_conv2d.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

using Options = std::vector<int64_t>;

// From this many images on, kernels work on lanes; below, on the pixels of one image after another.
constexpr int64_t kLanesBatch = kLine / 2;

Tensor empty4(const Tensor& like, const std::array<int64_t, 4>& size, bool channels_last) {
  const std::vector<size_t> order =
      channels_last ? std::vector<size_t>{0, 2, 3, 1} : std::vector<size_t>{0, 1, 2, 3};
  return empty_in_order({size.begin(), size.end()}, order, like.scalar_type());
}

// Lanes of `groups` groups.
Tensor empty_lanes(const Tensor& like, int64_t groups, int64_t channels, int64_t height,
                   int64_t width) {
  return empty_in_order({groups, channels, height, width, kLine}, {0, 1, 2, 3, 4},
                        like.scalar_type());
}

int64_t group_count(int64_t batch) { return (batch + kLine - 1) / kLine; }

Tensor lanes_of(const Tensor& x) {
  Tensor lanes = empty_lanes(x, group_count(x.size(0)), x.size(1), x.size(2), x.size(3));
  to_lanes(strided(x), lanes.data_ptr(), storage_type(x.scalar_type()), torch_parallel(),
           selected_isa());
  return lanes;
}

void put_lanes(const Tensor& lanes, const Tensor& to) {
  from_lanes(lanes.data_ptr(), strided(to), storage_type(to.scalar_type()), torch_parallel(),
             selected_isa());
}

// The layout that a call computes in: that of its tensors, or what their batch asks for.
Layout layout_of(const Tensor& x) {
  if (is_lanes(x)) return Layout::kLanes;
  if (x.size(0) < kLanesBatch) return Layout::kPixels;
  return is_channels_last(x) ? Layout::kImages : Layout::kLanes;
}

// x as the kernels read it.
Tensor readable(const Tensor& x, Layout layout) {
  if (layout == Layout::kImages) {
    if (is_channels_last(x)) return x;
    Tensor copy = empty4(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, true);
    return torch::stable::copy_(copy, x);
  }
  if (is_lanes(x) || layout == Layout::kPixels) return torch::stable::contiguous(x);
  return lanes_of(x);
}

// An output of `size` ([N, C, H, W], N as in x) for the kernels to write, and the way from there to
// the layout of x.
class Output {
 public:
  Output(const Tensor& x, const std::array<int64_t, 4>& size, Layout layout, bool cleared)
      : result_(is_lanes(x) ? empty_lanes(x, size[0], size[1], size[2], size[3])
                            : empty4(x, size, is_channels_last(x))),
        written_(result_) {
    if (!is_lanes(x) && layout == Layout::kLanes) {
      written_ = empty_lanes(x, group_count(size[0]), size[1], size[2], size[3]);
    } else if (layout == Layout::kPixels && is_channels_last(x)) {
      written_ = empty4(x, size, false);
    }
    if (cleared) torch::stable::zero_(written_);
  }

  const Tensor& written() const { return written_; }

  Tensor finish() {
    if (is_lanes(written_) && !is_lanes(result_)) {
      put_lanes(written_, result_);
    } else if (written_.data_ptr() != result_.data_ptr()) {
      torch::stable::copy_(result_, written_);
    }
    return result_;
  }

 private:
  Tensor result_, written_;
};

// Kernel parameters and the tensors they point into.
struct Prepared {
  MaskedConv2dParams params;
  std::optional<Tensor> weight, mask, bias;
};

Prepared prepare(const Conv2dShape& shape, ScalarType type, Layout layout,
                 const std::optional<Tensor>& weight, const std::optional<Tensor>& mask,
                 const std::optional<Tensor>& bias) {
  Prepared p;
  p.params.shape = shape;
  p.params.storage = storage_type(type);
  p.params.layout = layout;
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

bool is_memory(const Tensor& t) {
  return t.is_cpu() && t.is_contiguous() && t.dim() == 1 && t.scalar_type() == ScalarType::Byte &&
         reinterpret_cast<uintptr_t>(t.data_ptr()) % sizeof(int64_t) == 0;
}

// Strides without memory, for planning.
Strided planned(int64_t batch, int64_t channels, int64_t height, int64_t width, bool lanes) {
  const int64_t element = lanes ? kLine : 1;
  return {nullptr,
          batch,
          channels,
          height,
          width,
          channels * height * width * element,
          height * width * element,
          width * element,
          element};
}

// Lets a call use a pattern.
void take_pattern(const char* op, const std::optional<Tensor>& pattern, Prepared& p) {
  if (!pattern.has_value()) return;
  STD_TORCH_CHECK(
      is_memory(*pattern) && is_masked_conv2d_pattern(pattern->data_ptr(), pattern->numel()), op,
      ": pattern must be what masked_conv2d_pattern returned");
  p.params.pattern = pattern->data_ptr();
}

Tensor masked_conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& mask,
                     const std::optional<Tensor>& bias, Options stride, Options padding,
                     Options dilation, int64_t groups, const std::optional<Tensor>& pattern) {
  constexpr const char* kOp = "masked_conv2d";
  check_floating(kOp, "x", x, x);
  check_floating(kOp, "weight", weight, x);
  const auto weight_size = sizes4(kOp, "weight", weight);
  const Conv2dShape shape =
      conv2d_shape(kOp, map_sizes(kOp, "x", x), weight_size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, weight_size, x);
  check_bias(kOp, bias, x, shape);
  const Layout layout = layout_of(x);
  Output y(x, {shape.batch, shape.filters, shape.out_height, shape.out_width}, layout, false);
  const Tensor in = readable(x, layout);
  Prepared p = prepare(shape, x.scalar_type(), layout, weight, mask, bias);
  take_pattern(kOp, pattern, p);
  masked_conv2d_forward(p.params, strided(in), strided(y.written()));
  return y.finish();
}

// What packing needs to know of the calls that it is for.
struct Planned {
  Conv2dShape shape;
  Layout layout;
  Strided x, y;
};

Planned planned_call(const char* op, const Tensor& weight, const std::optional<Tensor>& mask,
                     const Options& x_size, const Conv2dOptions& options) {
  check_floating(op, "weight", weight, weight);
  const auto weight_size = sizes4(op, "weight", weight);
  const auto size = map_size4(op, "x_size", x_size);
  const Conv2dShape shape = conv2d_shape(op, size, weight_size, options);
  check_mask(op, mask, weight_size, weight);
  const bool lanes = x_size.size() == 5 || size[0] >= kLanesBatch;
  return {shape, lanes ? Layout::kLanes : Layout::kPixels,
          planned(size[0], shape.channels, shape.height, shape.width, lanes),
          planned(size[0], shape.filters, shape.out_height, shape.out_width, lanes)};
}

Tensor bytes_of(const void* memory, int64_t bytes) {
  Tensor copy = torch::stable::empty({bytes}, ScalarType::Byte);
  std::memcpy(copy.data_ptr(), memory, static_cast<size_t>(bytes));
  return copy;
}

Tensor masked_conv2d_pack_cpu(const Tensor& weight, const std::optional<Tensor>& mask,
                              Options x_size, Options stride, Options padding, Options dilation,
                              int64_t groups) {
  constexpr const char* kOp = "masked_conv2d_pack";
  const Planned plan = planned_call(kOp, weight, mask, x_size, {stride, padding, dilation, groups});
  const Prepared p =
      prepare(plan.shape, weight.scalar_type(), plan.layout, weight, mask, std::nullopt);
  int64_t bytes = 0;
  const auto memory = masked_conv2d_pack(p.params, plan.x, plan.y, &bytes);
  return bytes_of(memory.get(), bytes);
}

Tensor masked_conv2d_pattern_cpu(const Tensor& weight, const Tensor& mask, Options x_size,
                                 Options stride, Options padding, Options dilation, int64_t groups,
                                 bool grad_input) {
  constexpr const char* kOp = "masked_conv2d_pattern";
  const Planned plan = planned_call(kOp, weight, mask, x_size, {stride, padding, dilation, groups});
  STD_TORCH_CHECK(weight.scalar_type() != ScalarType::Double, kOp,
                  ": weight must be float32, bfloat16 or float16, got float64");
  const Prepared p =
      prepare(plan.shape, weight.scalar_type(), plan.layout, std::nullopt, mask, std::nullopt);
  int64_t bytes = 0;
  const auto memory = masked_conv2d_pattern(p.params, plan.x, plan.y, grad_input, &bytes);
  return bytes_of(memory.get(), bytes);
}

Tensor masked_conv2d_packed(const Tensor& x, const Tensor& packed, Options weight_size,
                            const std::optional<Tensor>& bias,
                            const std::optional<Tensor>& residual, bool relu, Options stride,
                            Options padding, Options dilation, int64_t groups) {
  constexpr const char* kOp = "masked_conv2d_packed";
  check_floating(kOp, "x", x, x);
  const Conv2dShape shape =
      conv2d_shape(kOp, map_sizes(kOp, "x", x), weight_size4(kOp, weight_size),
                   {stride, padding, dilation, groups});
  check_bias(kOp, bias, x, shape);
  STD_TORCH_CHECK(is_memory(packed), kOp, ": packed must be what masked_conv2d_pack returned");
  const Layout layout = layout_of(x);
  std::optional<Tensor> added;
  if (residual.has_value()) {
    check_floating(kOp, "residual", *residual, x);
    check_output_like(kOp, "residual", *residual, is_lanes(x), shape);
    added = readable(*residual, layout);
  }
  Output y(x, {shape.batch, shape.filters, shape.out_height, shape.out_width}, layout, false);
  const Tensor in = readable(x, layout);
  Prepared p = prepare(shape, x.scalar_type(), layout, std::nullopt, std::nullopt, bias);
  p.params.packed = packed.data_ptr();
  p.params.relu = relu;
  if (added.has_value()) p.params.residual = added->data_ptr();
  const Strided from = strided(in), to = strided(y.written());
  STD_TORCH_CHECK(
      masked_conv2d_fits(p.params, from, to, packed.numel()), kOp,
      ": packed must have been made by masked_conv2d_pack for inputs like x, got one for "
      "another convolution, size of map or kind of batch");
  masked_conv2d_forward(p.params, from, to);
  return y.finish();
}

Tensor masked_conv2d_grad_input_cpu(const Tensor& grad_output, const Tensor& weight,
                                    const std::optional<Tensor>& mask, Options input_size,
                                    Options stride, Options padding, Options dilation,
                                    int64_t groups, const std::optional<Tensor>& pattern) {
  constexpr const char* kOp = "masked_conv2d_grad_input";
  check_floating(kOp, "grad_output", grad_output, grad_output);
  check_floating(kOp, "weight", weight, grad_output);
  const auto weight_size = sizes4(kOp, "weight", weight);
  const auto size = map_size4(kOp, "input_size", input_size);
  const Conv2dShape shape =
      conv2d_shape(kOp, size, weight_size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, weight_size, grad_output);
  check_output_like(kOp, "grad_output", grad_output, input_size.size() == 5, shape);
  const Layout layout = layout_of(grad_output);
  Output grad(grad_output, size, layout, grad_output.numel() == 0 || grad_input_has_gaps(shape));
  const Tensor in = readable(grad_output, layout);
  Prepared p = prepare(shape, in.scalar_type(), layout, weight, mask, std::nullopt);
  take_pattern(kOp, pattern, p);
  masked_conv2d_grad_input(p.params, strided(in), strided(grad.written()));
  return grad.finish();
}

Tensor masked_conv2d_grad_weight_cpu(const Tensor& grad_output, const Tensor& x,
                                     const std::optional<Tensor>& mask, Options weight_size,
                                     Options stride, Options padding, Options dilation,
                                     int64_t groups, const std::optional<Tensor>& pattern) {
  constexpr const char* kOp = "masked_conv2d_grad_weight";
  check_floating(kOp, "x", x, x);
  check_floating(kOp, "grad_output", grad_output, x);
  const auto size = weight_size4(kOp, weight_size);
  const Conv2dShape shape =
      conv2d_shape(kOp, map_sizes(kOp, "x", x), size, {stride, padding, dilation, groups});
  check_mask(kOp, mask, size, x);
  check_output_like(kOp, "grad_output", grad_output, is_lanes(x), shape);
  Tensor grad = torch::stable::new_zeros(x, size, accumulator_type(x.scalar_type()));
  const Layout layout = layout_of(x);
  const Tensor in = readable(x, layout), gradient = readable(grad_output, layout);
  Prepared p = prepare(shape, x.scalar_type(), layout, std::nullopt, mask, std::nullopt);
  take_pattern(kOp, pattern, p);
  masked_conv2d_grad_weight(p.params, strided(gradient), strided(in), grad.data_ptr());
  return torch::stable::to(grad, x.scalar_type());
}

Tensor to_lanes_cpu(const Tensor& x) {
  constexpr const char* kOp = "to_lanes";
  check_floating(kOp, "x", x, x);
  sizes4(kOp, "x", x);
  return lanes_of(x);
}

Tensor from_lanes_cpu(const Tensor& lanes, int64_t batch, bool channels_last) {
  constexpr const char* kOp = "from_lanes";
  check_floating(kOp, "lanes", lanes, lanes);
  check_lanes(kOp, lanes, batch);
  Tensor x = empty4(lanes, {batch, lanes.size(1), lanes.size(2), lanes.size(3)}, channels_last);
  put_lanes(torch::stable::contiguous(lanes), x);
  return x;
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("masked_conv2d", TORCH_BOX(&supertickets::masked_conv2d));
  m.impl("masked_conv2d_grad_input", TORCH_BOX(&supertickets::masked_conv2d_grad_input_cpu));
  m.impl("masked_conv2d_grad_weight", TORCH_BOX(&supertickets::masked_conv2d_grad_weight_cpu));
  m.impl("masked_conv2d_pack", TORCH_BOX(&supertickets::masked_conv2d_pack_cpu));
  m.impl("masked_conv2d_pattern", TORCH_BOX(&supertickets::masked_conv2d_pattern_cpu));
  m.impl("masked_conv2d_packed", TORCH_BOX(&supertickets::masked_conv2d_packed));
  m.impl("to_lanes", TORCH_BOX(&supertickets::to_lanes_cpu));
  m.impl("from_lanes", TORCH_BOX(&supertickets::from_lanes_cpu));
}

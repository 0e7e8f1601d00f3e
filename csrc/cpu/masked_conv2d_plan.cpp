#include "masked_conv2d_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace supertickets {
namespace {

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The axis of x: as many phases as the kernel touches, as many rows as the output needs.
Axis input_axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                int64_t dilation) {
  Axis axis;
  axis.size = size;
  axis.stride = stride;
  axis.pad = pad;
  axis.extent = out + (kernel - 1) * dilation / stride;
  axis.phases = 0;
  axis.phase_index.assign(stride, -1);
  axis.residue.clear();
  for (int64_t k = 0; k < kernel; ++k) {
    int32_t& index = axis.phase_index[k * dilation % stride];
    if (index >= 0) continue;
    index = static_cast<int32_t>(axis.phases++);
    axis.residue.push_back(k * dilation % stride);
  }
  return axis;
}

// An axis that is only copied, with `pad` zeros on both sides.
Axis plain_axis(int64_t size, int64_t pad) {
  Axis axis;
  axis.size = size;
  axis.pad = pad;
  axis.extent = size + 2 * pad;
  return axis;
}

// Lanes pay from half a line of images on, if the planes of a line still have 32-bit offsets: those
// of x, and those of grad_output with the halo that grad_input puts around them.
int64_t lanes_for(const Conv2dShape& shape, const Planes& x) {
  if (shape.batch < kLine / 2) return 1;
  const auto halo = [](const Axis& axis, int64_t out) { return 2 * axis.extent - out; };
  const int64_t input = x.count() * x.y.extent * x.x.extent;
  const int64_t grad = shape.filters * halo(x.y, shape.out_height) * halo(x.x, shape.out_width);
  return std::max(input, grad) < std::numeric_limits<int32_t>::max() / (2 * kLine) ? kLine : 1;
}

void set_pitches(Planes& planes, int64_t row_pitch) {
  planes.row_pitch = row_pitch;
  planes.plane_pitch = round_up(planes.y.extent * row_pitch, kLine);
  if (planes.elements() > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error(
        "masked_conv2d: the padded input of one image group must hold fewer than 2^31 elements");
  }
}

Planes input_planes(const Conv2dShape& shape) {
  Planes planes;
  planes.channels = shape.channels;
  planes.y = input_axis(shape.height, shape.out_height, shape.kernel_height, shape.stride_height,
                        shape.pad_top, shape.dilation_height);
  planes.x = input_axis(shape.width, shape.out_width, shape.kernel_width, shape.stride_width,
                        shape.pad_left, shape.dilation_width);
  planes.lanes = lanes_for(shape, planes);
  set_pitches(planes, planes.x.extent * planes.lanes);
  return planes;
}

// With lanes, rows are tiled one by one and hold no gaps. Without, a plane is one long row: output
// rows keep the pitch of the input, and the columns between them are computed and thrown away.
std::vector<Tile> tile_plane(const Planes& in, const Planes& out,
                             const MaskedConv2dKernels& kernels, int64_t element_bytes) {
  const int64_t lanes = kernels.vector_bytes / element_bytes;
  const bool flat = out.lanes == 1;
  const int64_t rows = flat ? 1 : out.y.extent;
  const int64_t columns = flat ? out.plane_pitch : out.x.extent * out.lanes;
  const int64_t vectors = columns / lanes;
  const int64_t pieces = (vectors + kernels.tile_vectors - 1) / kernels.tile_vectors;
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < rows; ++row) {
    int64_t done = 0;
    for (int64_t piece = 0; piece < pieces; ++piece) {  // equal pieces, no short rest
      const int64_t end = vectors * (piece + 1) / pieces;
      tiles.push_back(
          {row * in.row_pitch + done * lanes, row * out.row_pitch + done * lanes, end - done});
      done = end;
    }
  }
  return tiles;
}

Planes output_planes(int64_t channels, const Planes& in, const Axis& y, const Axis& x) {
  Planes planes;
  planes.channels = channels;
  planes.lanes = in.lanes;
  planes.y = y;
  planes.x = x;
  set_pitches(planes, planes.lanes == 1 ? in.row_pitch : x.extent * planes.lanes);
  return planes;
}

}  // namespace

ConvPlan plan_forward(const Conv2dShape& shape, const MaskedConv2dKernels& kernels,
                      int64_t element_bytes) {
  ConvPlan plan;
  plan.in = input_planes(shape);
  plan.out = output_planes(shape.filters, plan.in, plain_axis(shape.out_height, 0),
                           plain_axis(shape.out_width, 0));
  plan.tiles = tile_plane(plan.in, plan.out, kernels, element_bytes);
  return plan;
}

ConvPlan plan_grad_input(const Conv2dShape& shape, const MaskedConv2dKernels& kernels,
                         int64_t element_bytes) {
  const Planes x = input_planes(shape);
  ConvPlan plan;
  plan.in.channels = shape.filters;
  plan.in.lanes = x.lanes;
  plan.in.y = plain_axis(shape.out_height, x.y.extent - shape.out_height);
  plan.in.x = plain_axis(shape.out_width, x.x.extent - shape.out_width);
  set_pitches(plan.in, plan.in.x.extent * plan.in.lanes);
  plan.out = output_planes(shape.channels, plan.in, x.y, x.x);
  plan.tiles = tile_plane(plan.in, plan.out, kernels, element_bytes);
  return plan;
}

ConvPlan plan_grad_weight(const Conv2dShape& shape) {
  // Blocks small enough for grad_output and the input rows under it to stay in the second cache.
  constexpr int64_t kBlockElements = 8192;
  ConvPlan plan;
  plan.in = input_planes(shape);
  plan.out = output_planes(shape.filters, plan.in, plain_axis(shape.out_height, 0),
                           plain_axis(shape.out_width, 0));
  const int64_t columns = shape.out_width * plan.out.lanes;
  const int64_t step = std::max<int64_t>(1, kBlockElements / columns);
  for (int64_t row = 0; row < shape.out_height; row += step) {
    plan.blocks.push_back({row * plan.in.row_pitch, row * plan.out.row_pitch,
                           std::min(step, shape.out_height - row), columns});
  }
  return plan;
}

bool grad_input_has_gaps(const Conv2dShape& shape) {
  const Planes planes = input_planes(shape);
  for (const Axis* axis : {&planes.y, &planes.x}) {
    for (int64_t p = 0; p < axis->size; ++p) {
      const int64_t padded = p + axis->pad;
      if (axis->phase_index[padded % axis->stride] < 0) return true;
      if (padded / axis->stride >= axis->extent) return true;
    }
  }
  return false;
}

}  // namespace supertickets

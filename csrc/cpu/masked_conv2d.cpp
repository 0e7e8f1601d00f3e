// Drives the kernels: groups of images are packed into planes, computed and unpacked.
#include "masked_conv2d.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "masked_conv2d_plan.h"

namespace supertickets {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Uninitialised, aligned for every vector.
template <class A>
std::unique_ptr<A[], Free> scratch(int64_t elements) {
  constexpr size_t kAlignment = 64;
  const size_t bytes = (static_cast<size_t>(elements) * sizeof(A) + kAlignment - 1) / kAlignment;
  void* memory = std::aligned_alloc(kAlignment, std::max<size_t>(bytes, 1) * kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  return std::unique_ptr<A[], Free>(static_cast<A*>(memory));
}

// Room for `groups` groups of planes.
template <class A>
std::unique_ptr<A[], Free> plane_scratch(const Planes& planes, int64_t groups) {
  return scratch<A>(groups * planes.buffer_elements());
}

// Image groups that are in planes at the same time. 16 MiB of scratch stay below the size from
// which the C library returns memory to the system at once, so pages are faulted in only once.
int64_t groups_at_once(const ConvPlan& plan, int64_t groups, int64_t element_bytes) {
  constexpr int64_t kScratchBytes = int64_t{16} << 20;
  const int64_t group = (plan.in.buffer_elements() + plan.out.buffer_elements()) * element_bytes;
  return std::clamp<int64_t>(kScratchBytes / group, 1, groups);
}

using Copy = void (*)(const CopyJob&);

// Packs or unpacks `groups` groups of images, the first of which starts at image `first`.
template <class A>
void copy_groups(const MaskedConv2dParams& params, Copy copy, const Strided& dense,
                 const Planes& planes, A* buffer, int64_t first, int64_t groups) {
  // Channels that lie side by side in memory are moved together, a cache line at a time.
  const int64_t blocks = (planes.channels + kLine - 1) / kLine;
  parallel_for(params.parallel, groups * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / blocks, channel = i % blocks * kLine;
      copy({dense, first + group * planes.lanes, channel,
            std::min(kLine, planes.channels - channel), &planes, planes.y.residue.data(),
            planes.x.residue.data(), buffer + group * planes.buffer_elements()});
    }
  });
}

void run_tile(const MaskedConv2dKernels& kernels, const TileJob<float>& job) {
  kernels.tile_float32(job);
}
void run_tile(const MaskedConv2dKernels& kernels, const TileJob<double>& job) {
  kernels.tile_float64(job);
}
void run_dot(const MaskedConv2dKernels& kernels, const DotJob<float>& job) {
  kernels.dot_float32(job);
}
void run_dot(const MaskedConv2dKernels& kernels, const DotJob<double>& job) {
  kernels.dot_float64(job);
}

// forward and grad_input: every output plane is a sum of taps of input planes.
template <class A>
void run_taps(const MaskedConv2dParams& params, const ConvPlan& plan, const TapLists<A>& lists,
              const Strided& in_dense, const Strided& out_dense) {
  const MaskedConv2dKernels& kernels = masked_conv2d_kernels(params.isa);
  const int storage = static_cast<int>(params.storage);
  const int64_t lanes = plan.in.lanes;
  const int64_t groups = (in_dense.batch + lanes - 1) / lanes;
  const int64_t step = groups_at_once(plan, groups, sizeof(A));
  const auto in = plane_scratch<A>(plan.in, step);
  const auto out = plane_scratch<A>(plan.out, step);
  const int64_t tiles = static_cast<int64_t>(plan.tiles.size());
  for (int64_t group = 0; group < groups; group += step) {
    const int64_t count = std::min(step, groups - group);
    copy_groups(params, kernels.pack[storage], in_dense, plan.in, in.get(), group * lanes, count);
    parallel_for(params.parallel, count * tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Tile& tile = plan.tiles[i % tiles];
        const int64_t g = i / tiles;
        run_tile(kernels, TileJob<A>{plan.out.count(), lists.start.data(), lists.taps.data(),
                                     static_cast<const A*>(params.bias),
                                     in.get() + g * plan.in.buffer_elements() + tile.in,
                                     out.get() + g * plan.out.buffer_elements() + tile.out,
                                     plan.out.plane_pitch, tile.vectors});
      }
    });
    copy_groups(params, kernels.unpack[storage], out_dense, plan.out, out.get(), group * lanes,
                count);
  }
}

template <class A>
void forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y) {
  const ConvPlan plan = plan_forward(params.shape, masked_conv2d_kernels(params.isa), sizeof(A));
  const auto lists = forward_taps(params.shape, plan.in, static_cast<const A*>(params.weight),
                                  params.mask, params.parallel);
  run_taps(params, plan, lists, x, y);
}

template <class A>
void grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                const Strided& grad_input) {
  const ConvPlan plan = plan_grad_input(params.shape, masked_conv2d_kernels(params.isa), sizeof(A));
  const auto lists = grad_input_taps(params.shape, plan.in, plan.out,
                                     static_cast<const A*>(params.weight), params.mask);
  run_taps(params, plan, lists, grad_output, grad_input);
}

template <class A>
void grad_weight(const MaskedConv2dParams& params, const Strided& grad_output, const Strided& x,
                 double* grad_weight) {
  const MaskedConv2dKernels& kernels = masked_conv2d_kernels(params.isa);
  const int storage = static_cast<int>(params.storage);
  const ConvPlan plan = plan_grad_weight(params.shape);
  const NonzeroLists lists = nonzero_lists(params.shape, plan.in, params.mask, params.parallel);
  const int64_t lanes = plan.in.lanes;
  const int64_t groups = (x.batch + lanes - 1) / lanes;
  const int64_t step = groups_at_once(plan, groups, sizeof(A));
  const auto in = plane_scratch<A>(plan.in, step);
  const auto grad = plane_scratch<A>(plan.out, step);
  std::vector<double> sums(lists.index.size(), 0.0);
  for (int64_t group = 0; group < groups; group += step) {
    const int64_t count = std::min(step, groups - group);
    copy_groups(params, kernels.pack[storage], x, plan.in, in.get(), group * lanes, count);
    copy_groups(params, kernels.pack[storage], grad_output, plan.out, grad.get(), group * lanes,
                count);
    // One thread owns a filter, so each sum has one order for any number of threads.
    parallel_for(params.parallel, params.shape.filters, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = 0; g < count; ++g) {
        const A* group_in = in.get() + g * plan.in.buffer_elements();
        const A* group_grad = grad.get() + g * plan.out.buffer_elements();
        for (const Block& block : plan.blocks) {
          for (int64_t filter = begin; filter < end; ++filter) {
            const int64_t first = lists.start[filter];
            run_dot(kernels, DotJob<A>{group_grad + filter * plan.out.plane_pitch + block.grad,
                                       group_in + block.in, lists.offset.data() + first,
                                       lists.start[filter + 1] - first, block.rows, block.columns,
                                       plan.out.row_pitch, plan.in.row_pitch, sums.data() + first});
          }
        }
      }
    });
  }
  for (size_t i = 0; i < sums.size(); ++i) grad_weight[lists.index[i]] = sums[i];
}

bool has_work(const Conv2dShape& shape) {
  return shape.batch > 0 && shape.filters > 0 && shape.out_height > 0 && shape.out_width > 0;
}

}  // namespace

void masked_conv2d_forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y) {
  if (!has_work(params.shape)) return;
  if (params.storage == StorageType::kFloat64) return forward<double>(params, x, y);
  forward<float>(params, x, y);
}

void masked_conv2d_grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                              const Strided& input) {
  if (!has_work(params.shape) || params.shape.channels == 0) return;
  if (params.storage == StorageType::kFloat64)
    return grad_input<double>(params, grad_output, input);
  grad_input<float>(params, grad_output, input);
}

void masked_conv2d_grad_weight(const MaskedConv2dParams& params, const Strided& grad_output,
                               const Strided& x, double* weight) {
  if (!has_work(params.shape) || params.shape.channels == 0) return;
  if (params.storage == StorageType::kFloat64) {
    return grad_weight<double>(params, grad_output, x, weight);
  }
  grad_weight<float>(params, grad_output, x, weight);
}

}  // namespace supertickets

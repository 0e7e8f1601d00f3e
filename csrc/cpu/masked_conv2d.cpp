// The entry points: each pass as correlations, and tensors into lanes and back.
#include "masked_conv2d.h"

#include <algorithm>
#include <type_traits>

#include "masked_conv2d_pattern.h"

namespace supertickets {
namespace {

// Correlates with weight and mask; `part` of the pattern, if there is one, spares the packing.
template <class A>
void correlate_weight(Work& work, int64_t part) {
  if constexpr (std::is_same_v<A, float>) {
    const MaskedConv2dParams& params = work.params;
    const std::byte* indices = nullptr;
    if (params.pattern != nullptr) indices = Pattern(params.pattern).part(work, part, sizeof(A));
    if (indices != nullptr) {
      static thread_local Scratch scratch;
      auto* packed = scratch.get<std::byte>(Packed(indices).header().bytes);
      put_weights(indices, static_cast<const float*>(params.weight), packed, params.parallel);
      return correlate<A>(work, packed);
    }
  }
  correlate<A>(work, pack_work<A>(work).get());
}

// The same without a pattern that was made of another mask.
MaskedConv2dParams checked(MaskedConv2dParams params) {
  const Conv2dShape& s = params.shape;
  const int64_t weights = s.filters * s.taps();
  if (params.mask == nullptr || params.pattern == nullptr ||
      !Pattern(params.pattern).is_of(params.mask, weights, params.parallel)) {
    params.pattern = nullptr;
  }
  return params;
}

template <class A>
void forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y) {
  Work work = plan_work<A>(params, forward_correlation(params.shape), x, y);
  if (params.packed != nullptr) return correlate<A>(work, params.packed);
  correlate_weight<A>(work, 0);
}

template <class A>
void grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                const Strided& grad_input) {
  int64_t part = 0;
  for (const Correlation& phase : grad_input_correlations(params.shape)) {
    Work work = plan_work<A>(params, phase, grad_output, grad_input);
    correlate_weight<A>(work, part++);
  }
}

template <class A>
void grad_weight(const MaskedConv2dParams& params, const Strided& grad_output, const Strided& x,
                 A* grad_weight) {
  Work work = plan_work<A>(params, forward_correlation(params.shape), x, grad_output);
  dot_products(work, grad_weight);
}

bool has_work(const Conv2dShape& shape) {
  return shape.batch > 0 && shape.filters > 0 && shape.out_height > 0 && shape.out_width > 0;
}

template <class A>
bool fits(const MaskedConv2dParams& params, const Strided& x, const Strided& y, int64_t bytes) {
  const Packed packed(params.packed);
  const MaskedConv2dKernels& kernels = masked_conv2d_kernels(params.isa);
  if (!packed.is_sound(bytes, params.layout != Layout::kPixels, Kernels<A>::lines(kernels),
                       kernels.shares_taps)) {
    return false;
  }
  const Work work = plan_work<A>(params, forward_correlation(params.shape), x, y);
  return packed.fits(work.correlation, work.tiling, sizeof(A), false);
}

using Move = void (*)(const LanesJob&);

void move(Move move, const Strided& dense, void* lanes, const Parallel& parallel) {
  const int64_t groups = (dense.batch + kLine - 1) / kLine;
  const int64_t blocks = (dense.channels + kLine - 1) / kLine;
  parallel_for(parallel, groups * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t channel = i % blocks * kLine;
      move({dense, lanes, i / blocks, channel, std::min(kLine, dense.channels - channel)});
    }
  });
}

}  // namespace

void masked_conv2d_forward(const MaskedConv2dParams& params, const Strided& x, const Strided& y) {
  if (!has_work(params.shape)) return;
  if (params.storage == StorageType::kFloat64) return forward<double>(params, x, y);
  forward<float>(checked(params), x, y);
}

std::unique_ptr<std::byte[]> masked_conv2d_pattern(const MaskedConv2dParams& params,
                                                   const Strided& x, const Strided& y,
                                                   bool transposed, int64_t* bytes) {
  std::vector<Work> parts;
  if (transposed) {
    for (const Correlation& phase : grad_input_correlations(params.shape)) {
      parts.push_back(plan_work<float>(params, phase, y, x));
    }
  } else {
    parts.push_back(plan_work<float>(params, forward_correlation(params.shape), x, y));
  }
  const int64_t weights = params.shape.filters * params.shape.taps();
  return make_pattern(parts, params, weights, sizeof(float), bytes);
}

bool is_masked_conv2d_pattern(const void* memory, int64_t bytes) {
  return Pattern(memory).is_sound(bytes);
}

std::unique_ptr<std::byte[]> masked_conv2d_pack(const MaskedConv2dParams& params, const Strided& x,
                                                const Strided& y, int64_t* bytes) {
  const Correlation correlation = forward_correlation(params.shape);
  auto memory = params.storage == StorageType::kFloat64
                    ? pack_work<double>(plan_work<double>(params, correlation, x, y))
                    : pack_work<float>(plan_work<float>(params, correlation, x, y));
  *bytes = Packed(memory.get()).header().bytes;
  return memory;
}

bool masked_conv2d_fits(const MaskedConv2dParams& params, const Strided& x, const Strided& y,
                        int64_t bytes) {
  return params.storage == StorageType::kFloat64 ? fits<double>(params, x, y, bytes)
                                                 : fits<float>(params, x, y, bytes);
}

void masked_conv2d_grad_input(const MaskedConv2dParams& params, const Strided& grad_output,
                              const Strided& input) {
  if (!has_work(params.shape) || params.shape.channels == 0) return;
  if (params.storage == StorageType::kFloat64) {
    return grad_input<double>(params, grad_output, input);
  }
  grad_input<float>(checked(params), grad_output, input);
}

void masked_conv2d_grad_weight(const MaskedConv2dParams& params, const Strided& grad_output,
                               const Strided& x, void* weight) {
  if (!has_work(params.shape) || params.shape.channels == 0) return;
  if (params.storage == StorageType::kFloat64) {
    return grad_weight<double>(params, grad_output, x, static_cast<double*>(weight));
  }
  grad_weight<float>(checked(params), grad_output, x, static_cast<float*>(weight));
}

void to_lanes(const Strided& dense, void* lanes, StorageType storage, const Parallel& parallel,
              Isa isa) {
  move(masked_conv2d_kernels(isa).to_lanes[static_cast<int>(storage)], dense, lanes, parallel);
}

void from_lanes(const void* lanes, const Strided& dense, StorageType storage,
                const Parallel& parallel, Isa isa) {
  move(masked_conv2d_kernels(isa).from_lanes[static_cast<int>(storage)], dense,
       const_cast<void*>(lanes), parallel);
}

}  // namespace supertickets

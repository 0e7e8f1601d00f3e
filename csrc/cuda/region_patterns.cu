// A value is rows [channels * pixels][samples]: neighbouring threads have neighbouring samples.
#include <vector>

#include "block.cuh"
#include "region_patterns.h"

namespace supertickets::cuda {
namespace {

constexpr int64_t kFloatsMost = int64_t{1} << 26;  // of all values of a part, 256 MiB

// A node in one part of the samples.
struct Step {
  RegionNode node;
  const float *first, *second;  // its inputs
  float* out;
  int64_t in_channels, in_height, in_width;
  int64_t samples, batch;
  int64_t bit;  // of the first row, in a sample's pattern
  uint64_t* patterns;
  int64_t words;
};

// Calls body(row, sample) for all of them.
template <class Body>
__device__ void for_values(int64_t rows, int64_t samples, const Body& body) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * samples; i += stride) {
    body(i / samples, i % samples);
  }
}

__global__ void __launch_bounds__(kThreads)
    read_input(const float* x, int64_t rows, int64_t samples, float* out) {
  for_values(rows, samples, [&](int64_t row, int64_t sample) {
    out[row * samples + sample] = x[sample * rows + row];
  });
}

// first * scale, or first + scale * second.
__global__ void __launch_bounds__(kThreads) add_values(Step s, int64_t rows, float own) {
  for_values(rows, s.samples, [&](int64_t row, int64_t sample) {
    const int64_t at = row * s.samples + sample;
    float sum = own * s.first[at];
    if (s.second != nullptr) sum += s.node.scale * s.second[at];
    s.out[at] = sum;
  });
}

__device__ bool is_more(float value, float than) {
  return value > than || value != value;  // NaN stays, as in torch
}

// Convolutions, pools and windows: one output pixel of one sample.
__device__ float window_of(const Step& s, int64_t row, int64_t sample) {
  const RegionNode& n = s.node;
  const bool conv = n.kind == RegionKind::kConv, most = n.kind == RegionKind::kMaxPool;
  const int64_t channel = row / (n.height * n.width), pixel = row % (n.height * n.width);
  const int64_t top = pixel / n.width * n.stride - n.padding_y;
  const int64_t left = pixel % n.width * n.stride - n.padding_x;
  const int64_t each = conv ? s.in_channels / n.groups : 1;
  const int64_t first = conv ? channel / (n.channels / n.groups) * each : channel;
  float result = conv && n.bias != nullptr ? n.bias[channel] : 0.0f;
  int64_t taps = 0;
  for (int64_t c = 0; c < each; ++c) {
    for (int64_t ky = 0; ky < n.kernel_y; ++ky) {
      const int64_t y = top + ky * n.dilation;
      if (y < 0 || y >= s.in_height) continue;
      for (int64_t kx = 0; kx < n.kernel_x; ++kx) {
        const int64_t x = left + kx * n.dilation;
        if (x < 0 || x >= s.in_width) continue;
        const int64_t from = ((first + c) * s.in_height + y) * s.in_width + x;
        const float value = s.first[from * s.samples + sample];
        if (most) {
          if (taps == 0 || is_more(value, result)) result = value;
        } else if (conv) {
          result += n.weight[((channel * each + c) * n.kernel_y + ky) * n.kernel_x + kx] * value;
        } else {
          result += value;
        }
        ++taps;
      }
    }
  }
  if (n.kind != RegionKind::kAveragePool) return result;
  return result / static_cast<float>(n.counts_padding ? n.kernel_y * n.kernel_x : taps);
}

__global__ void __launch_bounds__(kThreads, 2) windows(Step s, int64_t rows) {
  for_values(rows, s.samples, [&](int64_t row, int64_t sample) {
    s.out[row * s.samples + sample] = window_of(s, row, sample);
  });
}

// The sum over the block, in one order; every thread gets it.
__device__ double block_sum(double value) {
  __shared__ double sums[kWarps];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += sums[w];
  __syncthreads();  // the sums are read before the next call writes them
  return sum;
}

// A block has one channel of one batch.
__global__ void __launch_bounds__(kThreads) norm_values(Step s) {
  const RegionNode& n = s.node;
  const int64_t pixels = n.height * n.width;
  const int64_t batches = (s.samples + s.batch - 1) / s.batch;
  for (int64_t i = blockIdx.x; i < n.channels * batches; i += gridDim.x) {
    const int64_t channel = i / batches, first = i % batches * s.batch;
    const int64_t left = s.samples - first, size = left < s.batch ? left : s.batch;
    const int64_t base = channel * pixels * s.samples + first, numbers = pixels * size;
    const auto place = [&](int64_t k) { return base + k / size * s.samples + k % size; };
    double sum = 0, squares = 0;
    for (int64_t k = threadIdx.x; k < numbers; k += kThreads) {
      sum += static_cast<double>(s.first[place(k)]);
    }
    const double count = static_cast<double>(numbers);
    const auto mean = static_cast<float>(block_sum(sum) / count);
    for (int64_t k = threadIdx.x; k < numbers; k += kThreads) {
      const float apart = s.first[place(k)] - mean;
      squares += static_cast<double>(apart * apart);
    }
    const double variance = block_sum(squares) / count;
    const float weight = n.weight != nullptr ? n.weight[channel] : 1.0f;
    const float scale =
        weight * static_cast<float>(1 / sqrt(variance + static_cast<double>(n.scale)));
    const float shift = (n.bias != nullptr ? n.bias[channel] : 0.0f) - mean * scale;
    for (int64_t k = threadIdx.x; k < numbers; k += kThreads) {
      s.out[place(k)] = s.first[place(k)] * scale + shift;
    }
  }
}

// A thread has the rows of one word of one sample's pattern.
__global__ void __launch_bounds__(kThreads) clip_values(Step s, int64_t rows) {
  const int64_t first_word = s.bit / 64, words = (s.bit + rows - 1) / 64 - first_word + 1;
  for_values(words, s.samples, [&](int64_t word, int64_t sample) {
    uint64_t bits = 0;
    const int64_t begin = (first_word + word) * 64 - s.bit;
    for (int64_t b = 0; b < 64; ++b) {
      const int64_t row = begin + b;
      if (row < 0 || row >= rows) continue;
      const float value = s.first[row * s.samples + sample];
      if (value > 0) bits |= uint64_t{1} << b;
      s.out[row * s.samples + sample] = value < 0 ? 0.0f : value;  // NaN stays
    }
    s.patterns[sample * s.words + first_word + word] |= bits;
  });
}

unsigned blocks_of(int64_t values) { return blocks_for((values + kThreads - 1) / kThreads, 16); }

int64_t all_rows(const RegionNode* nodes, int64_t count) {
  int64_t rows = 0;
  for (int64_t i = 0; i < count; ++i) rows += nodes[i].rows();
  return rows;
}

// Samples that run together: whole batches.
int64_t part_of(const RegionNode* nodes, int64_t count, int64_t samples, int64_t batch) {
  const int64_t batches = kFloatsMost / all_rows(nodes, count) / batch;
  if (batches == 0) return samples < batch ? samples : batch;
  return samples / batch < batches ? samples : batches * batch;
}

// The nodes over one part of the samples.
class Part {
 public:
  Part(const RegionParams& params, int64_t first, int64_t samples, cudaStream_t stream)
      : params_(params), samples_(samples), stream_(stream), values_(params.count) {
    float* at = params.values;
    for (int64_t i = 0; i < params.count; ++i) {
      values_[i] = at;
      at += params.nodes[i].rows() * samples;
    }
    patterns_ = params.patterns + first * params.words;
    const int64_t rows = params.nodes[0].rows();
    const float* x = params.x + first * rows;
    float* to = values_[0];
    SUPERTICKETS_LAUNCH(read_input, blocks_of(rows * samples), kThreads, 0, stream, x, rows,
                        samples, to);
  }

  void run() {
    for (int64_t i = 1; i < params_.count; ++i) step(i);
  }

 private:
  void step(int64_t i) {
    const RegionNode& n = params_.nodes[i];
    const RegionNode& input = params_.nodes[n.inputs[0]];
    Step s{n,
           values_[n.inputs[0]],
           nullptr,
           values_[i],
           input.channels,
           input.height,
           input.width,
           samples_,
           params_.batch,
           bit_,
           patterns_,
           params_.words};
    const int64_t rows = n.rows();
    const unsigned blocks = blocks_of(rows * samples_);
    switch (n.kind) {
      case RegionKind::kNorm: {
        const int64_t batches = (samples_ + params_.batch - 1) / params_.batch;
        SUPERTICKETS_LAUNCH(norm_values, blocks_for(n.channels * batches, 8), kThreads, 0, stream_,
                            s);
        return;
      }
      case RegionKind::kRelu: {
        const unsigned words = blocks_of((rows / 64 + 2) * samples_);
        SUPERTICKETS_LAUNCH(clip_values, words, kThreads, 0, stream_, s, rows);
        bit_ += rows;
        return;
      }
      case RegionKind::kAdd:
        s.second = values_[n.inputs[1]];
        SUPERTICKETS_LAUNCH(add_values, blocks, kThreads, 0, stream_, s, rows, 1.0f);
        return;
      case RegionKind::kScale: {
        const float own = n.scale;
        SUPERTICKETS_LAUNCH(add_values, blocks, kThreads, 0, stream_, s, rows, own);
        return;
      }
      case RegionKind::kCat:
        for (int64_t k = 0; k < n.input_count; ++k) {
          const int64_t of_input = params_.nodes[n.inputs[k]].rows();
          s.first = values_[n.inputs[k]];
          SUPERTICKETS_LAUNCH(add_values, blocks_of(of_input * samples_), kThreads, 0, stream_, s,
                              of_input, 1.0f);
          s.out += of_input * samples_;
        }
        return;
      default:
        SUPERTICKETS_LAUNCH(windows, blocks, kThreads, 0, stream_, s, rows);
    }
  }

  const RegionParams& params_;
  int64_t samples_, bit_ = 0;
  cudaStream_t stream_;
  uint64_t* patterns_;
  std::vector<float*> values_;
};

}  // namespace

int64_t region_floats(const RegionNode* nodes, int64_t count, int64_t samples, int64_t batch) {
  return all_rows(nodes, count) * part_of(nodes, count, samples, batch);
}

cudaError_t region_patterns(const RegionParams& p, cudaStream_t stream) {
  if (p.samples == 0) return cudaSuccess;
  cudaMemsetAsync(p.patterns, 0, static_cast<size_t>(p.samples * p.words) * sizeof(uint64_t),
                  stream);
  const int64_t part = part_of(p.nodes, p.count, p.samples, p.batch);
  for (int64_t first = 0; first < p.samples; first += part) {
    const int64_t left = p.samples - first;
    Part(p, first, left < part ? left : part, stream).run();
  }
  return cudaGetLastError();
}

}  // namespace supertickets::cuda

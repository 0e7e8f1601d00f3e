#include "region_patterns.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace supertickets {
namespace {

// Where each value lies, in rows of a workspace; values that do not live together share memory.
struct Places {
  std::vector<int64_t> row;  // of each node, or -1 if no ReLU needs it
  int64_t rows = 0;
};

Places place(const RegionNode* nodes, int64_t count) {
  const auto nodes_count = static_cast<size_t>(count);
  Places places{std::vector<int64_t>(nodes_count, -1), 0};
  std::vector<int64_t> last(nodes_count, -1);  // the last reader; itself for a ReLU without any
  for (int64_t i = count; i-- > 0;) {
    auto& mine = last[static_cast<size_t>(i)];
    if (mine < 0 && nodes[i].kind == RegionKind::kRelu) mine = i;
    if (mine < 0) continue;
    for (int64_t k = 0; k < nodes[i].input_count; ++k) {
      auto& input = last[static_cast<size_t>(nodes[i].inputs[k])];
      input = std::max(input, i);
    }
  }
  std::vector<std::pair<int64_t, int64_t>> spare;  // size, row
  std::vector<std::vector<int64_t>> ending(nodes_count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = last[static_cast<size_t>(i)];
    if (end < 0) continue;
    const int64_t size = nodes[i].rows();
    const auto fits = [&](const auto& free) { return free.first == size; };
    const auto found = std::find_if(spare.rbegin(), spare.rend(), fits);
    if (found != spare.rend()) {
      places.row[static_cast<size_t>(i)] = found->second;
      spare.erase(std::next(found).base());
    } else {
      places.row[static_cast<size_t>(i)] = places.rows;
      places.rows += size;
    }
    ending[static_cast<size_t>(end)].push_back(i);
    for (const int64_t done : ending[static_cast<size_t>(i)]) {
      spare.emplace_back(nodes[done].rows(), places.row[static_cast<size_t>(done)]);
    }
  }
  return places;
}

// Runs the table on one batch.
class Run {
 public:
  Run(const RegionParams& params, const Places& places)
      : params_(params),
        places_(places),
        kernels_(region_kernels(params.isa)),
        most_(std::min(params.batch, params.samples)) {
    pitch_ = (most_ + kRegionLanes - 1) / kRegionLanes * kRegionLanes;
    // Rows that lie a multiple of a page apart would meet in one set of the first cache.
    if (pitch_ % 1024 == 0) pitch_ += kRegionLanes;
    values_.reset(new float[static_cast<size_t>(places.rows * pitch_)]);
    words_.reset(new uint32_t[static_cast<size_t>(2 * params.words * pitch_)]);
  }

  void batch(int64_t first) {
    samples_ = std::min(params_.batch, params_.samples - first);
    std::fill_n(words_.get(), 2 * params_.words * pitch_, 0u);
    bit_ = 0;
    read(first);
    for (int64_t i = 1; i < params_.count; ++i) {
      if (places_.row[static_cast<size_t>(i)] >= 0) step(i);
    }
    write(first);
  }

 private:
  float* value(int64_t node) const {
    return values_.get() + places_.row[static_cast<size_t>(node)] * pitch_;
  }

  void read(int64_t first) {
    if (places_.row[0] < 0) return;
    const int64_t rows = params_.nodes[0].rows();
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = params_.x + first * rows + r;
      float* to = value(0) + r * pitch_;
      for (int64_t s = 0; s < samples_; ++s) to[s] = from[s * rows];
      std::fill(to + samples_, to + pitch_, 0.0f);
    }
  }

  void write(int64_t first) const {
    for (int64_t w = 0; w < params_.words; ++w) {
      const uint32_t *low = words_.get() + 2 * w * pitch_, *high = low + pitch_;
      uint64_t* to = params_.patterns + first * params_.words + w;
      for (int64_t s = 0; s < samples_; ++s) {
        to[s * params_.words] = low[s] | static_cast<uint64_t>(high[s]) << 32;
      }
    }
  }

  void step(int64_t i) {
    const RegionNode& n = params_.nodes[i];
    const float* x = value(n.inputs[0]);
    float* y = value(i);
    const float ones[2] = {n.kind == RegionKind::kScale ? n.scale : 1.0f, n.scale};
    switch (n.kind) {
      case RegionKind::kNorm:
        for (int64_t c = 0; c < n.channels; ++c) {
          const int64_t at = c * n.pixels() * pitch_;
          kernels_.norm(x + at, y + at, n.pixels(), samples_, pitch_, n.weight ? n.weight[c] : 1.0f,
                        n.bias ? n.bias[c] : 0.0f, n.scale);
        }
        return;
      case RegionKind::kRelu:
        kernels_.relu(x, y, n.rows(), pitch_, bit_, words_.get());
        bit_ += n.rows();
        return;
      case RegionKind::kAdd:
      case RegionKind::kScale: {
        const float* rows[2] = {x, value(n.inputs[n.input_count - 1])};
        kernels_.sum(rows, ones, n.input_count, 0, y, n.rows() * pitch_);
        return;
      }
      case RegionKind::kCat:
        for (int64_t k = 0; k < n.input_count; ++k) {
          const int64_t size = params_.nodes[n.inputs[k]].rows() * pitch_;
          y = std::copy_n(value(n.inputs[k]), size, y);
        }
        return;
      default:
        windows(n, x, y);
    }
  }

  void windows(const RegionNode& n, const float* x, float* y) {
    for (int64_t c = 0; c < n.channels; ++c) {
      for (int64_t oy = 0; oy < n.height; ++oy) {
        for (int64_t ox = 0; ox < n.width; ++ox, y += pitch_) window(n, c, oy, ox, x, y);
      }
    }
  }

  // One output pixel of one channel.
  void window(const RegionNode& n, int64_t channel, int64_t oy, int64_t ox, const float* x,
              float* y) {
    const RegionNode& input = params_.nodes[n.inputs[0]];
    const bool conv = n.kind == RegionKind::kConv;
    const int64_t each = conv ? input.channels / n.groups : 1;
    const int64_t first = conv ? channel / (n.channels / n.groups) * each : channel;
    rows_.clear();
    weights_.clear();
    for (int64_t ci = 0; ci < each; ++ci) {
      for (int64_t ky = 0; ky < n.kernel_y; ++ky) {
        const int64_t iy = oy * n.stride - n.padding_y + ky * n.dilation;
        if (iy < 0 || iy >= input.height) continue;
        for (int64_t kx = 0; kx < n.kernel_x; ++kx) {
          const int64_t ix = ox * n.stride - n.padding_x + kx * n.dilation;
          if (ix < 0 || ix >= input.width) continue;
          rows_.push_back(x + (((first + ci) * input.height + iy) * input.width + ix) * pitch_);
          const int64_t tap = ((channel * each + ci) * n.kernel_y + ky) * n.kernel_x + kx;
          weights_.push_back(conv ? n.weight[tap] : 1.0f);
        }
      }
    }
    const auto taps = static_cast<int64_t>(rows_.size());
    if (n.kind == RegionKind::kMaxPool) {
      kernels_.max(rows_.data(), taps, y, pitch_);
      return;
    }
    if (n.kind == RegionKind::kAveragePool) {
      const int64_t divisor = n.counts_padding ? n.kernel_y * n.kernel_x : taps;
      std::fill(weights_.begin(), weights_.end(), 1.0f / static_cast<float>(divisor));
    }
    kernels_.sum(rows_.data(), weights_.data(), taps, conv && n.bias ? n.bias[channel] : 0.0f, y,
                 pitch_);
  }

  const RegionParams& params_;
  const Places& places_;
  const RegionKernels& kernels_;
  int64_t most_, pitch_ = 0, samples_ = 0, bit_ = 0;
  std::unique_ptr<float[]> values_;
  std::unique_ptr<uint32_t[]> words_;  // [2 * words][samples]
  std::vector<const float*> rows_;
  std::vector<float> weights_;
};

}  // namespace

void region_patterns(const RegionParams& params) {
  const Places places = place(params.nodes, params.count);
  const int64_t batches = (params.samples + params.batch - 1) / params.batch;
  parallel_for(params.parallel, batches, 1, [&](int64_t begin, int64_t end) {
    Run run(params, places);
    for (int64_t b = begin; b < end; ++b) run.batch(b * params.batch);
  });
}

}  // namespace supertickets

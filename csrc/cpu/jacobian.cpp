// Plans and runs the Jacobian kernels: memory, order, threads.
#include "jacobian.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace supertickets {
namespace {

constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

enum class Way { kLive, kDense, kDepthwise };

// What follows from the shape: how the sums are made and what they need.
struct Plan {
  Way way;
  int64_t lanes, element;               // lanes of a vector, bytes of a number
  int64_t blocks;                       // of lanes, in a group (depthwise: in all)
  int64_t plane_height, plane_width;    // of one block of the gradient, in pixels
  int64_t padded_height, padded_width;  // of x with its padding, as far as taps reach
  std::vector<int64_t> taps;            // distances, in elements
  int64_t x_bytes, counts_bytes;        // shared: x in the form that the sums read
  int64_t plane_bytes, tile_bytes;      // of each thread

  explicit Plan(const JacobianParams& params);
  int64_t thread_bytes() const { return plane_bytes + tile_bytes; }
};

Plan::Plan(const JacobianParams& params) {
  const Conv2dShape& s = params.shape;
  const bool is_double = params.storage == StorageType::kFloat64;
  lanes = jacobian_kernels(params.isa).lanes[is_double ? 1 : 0];
  element = is_double ? 8 : 4;
  const bool unit = s.stride_height == 1 && s.stride_width == 1;
  const bool depthwise = s.group_channels() == 1 && s.group_filters() == 1;
  way = depthwise ? Way::kDepthwise : unit ? Way::kLive : Way::kDense;
  blocks = ((depthwise ? s.filters : s.group_filters()) + lanes - 1) / lanes;
  const int64_t reach_height = (s.kernel_height - 1) * s.dilation_height;
  const int64_t reach_width = (s.kernel_width - 1) * s.dilation_width;
  padded_height = std::max<int64_t>(0, s.out_height - 1) * s.stride_height + reach_height + 1;
  padded_width = std::max<int64_t>(0, s.out_width - 1) * s.stride_width + reach_width + 1;
  plane_height = way == Way::kLive ? s.height + reach_height : s.out_height;
  plane_width = way == Way::kLive ? s.width + reach_width : s.out_width;
  for (int64_t i = 0; i < s.kernel_height; ++i) {
    for (int64_t j = 0; j < s.kernel_width; ++j) {
      const int64_t down = i * s.dilation_height, right = j * s.dilation_width;
      if (way == Way::kLive) {
        taps.push_back(((reach_height - down) * plane_width + reach_width - right) * lanes);
      } else {
        taps.push_back((down * padded_width + right) * (way == Way::kDepthwise ? lanes : 1));
      }
    }
  }
  const int64_t maps = s.batch * s.channels;
  counts_bytes = 0;
  if (way == Way::kLive) {
    x_bytes = aligned(maps * s.height * s.width * (element + 4));
    counts_bytes = aligned(maps * 8);
  } else if (way == Way::kDense) {
    x_bytes = aligned(maps * padded_height * padded_width * element);
  } else {
    x_bytes = aligned(s.batch * blocks * lanes * padded_height * padded_width * element);
  }
  plane_bytes = aligned(plane_height * plane_width * lanes * element);
  tile_bytes =
      aligned((depthwise ? static_cast<int64_t>(taps.size()) : s.taps()) * lanes * element);
}

template <class A>
class Rows {
 public:
  Rows(const JacobianParams& params, const Strided& grad, const Strided& x, const bool* mask,
       const A* scale, void* workspace, A* out)
      : params_(params),
        shape_(params.shape),
        plan_(params),
        kernels_(jacobian_kernels(params.isa)),
        grad_(grad),
        x_(x),
        mask_(mask),
        scale_(scale),
        workspace_(static_cast<char*>(workspace)),
        out_(out) {}

  void run() {
    prepare_x();
    const int64_t groups = plan_.way == Way::kDepthwise ? 1 : shape_.groups;
    const int64_t tasks = params_.rows * groups * plan_.blocks;
    const int64_t threads = std::max<int64_t>(1, params_.parallel.threads);
    // One piece for each thread, so that each has scratch memory of its own.
    const int64_t piece = (tasks + threads - 1) / threads;
    parallel_for(params_.parallel, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        work(t, t * piece, std::min(tasks, (t + 1) * piece), groups);
      }
    });
  }

 private:
  static constexpr int kType = sizeof(A) == 8 ? 1 : 0;

  A* x_values() const { return reinterpret_cast<A*>(workspace_); }
  int64_t pixels() const { return shape_.height * shape_.width; }
  int64_t maps() const { return shape_.batch * shape_.channels; }
  int32_t* x_offsets() const {
    return reinterpret_cast<int32_t*>(workspace_ + maps() * pixels() * plan_.element);
  }
  int64_t* x_counts() const { return reinterpret_cast<int64_t*>(workspace_ + plan_.x_bytes); }
  const A* x_plane(int64_t image, int64_t channel) const {
    return static_cast<const A*>(x_.data) + image * x_.stride_batch + channel * x_.stride_channel;
  }

  void prepare_x() {
    if (plan_.way != Way::kLive) std::memset(workspace_, 0, static_cast<size_t>(plan_.x_bytes));
    parallel_for(params_.parallel, maps(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t map = begin; map < end; ++map) {
        const int64_t image = map / shape_.channels, channel = map % shape_.channels;
        if (plan_.way == Way::kLive) {
          list_pixels(map, x_plane(image, channel));
        } else {
          pad_plane(image, channel);
        }
      }
    });
  }

  void list_pixels(int64_t map, const A* plane) {
    LivePixelJob job{plane,
                     shape_.height,
                     shape_.width,
                     x_.stride_height,
                     x_.stride_width,
                     plan_.plane_width,
                     x_values() + map * pixels(),
                     x_offsets() + map * pixels(),
                     0};
    kernels_.live_pixels[kType](job);
    x_counts()[map] = job.count;
  }

  void pad_plane(int64_t image, int64_t channel) {
    const bool each = plan_.way == Way::kDepthwise;
    const int64_t step = each ? plan_.lanes : 1, size = plan_.padded_height * plan_.padded_width;
    A* to = each ? x_values() + (image * plan_.blocks + channel / plan_.lanes) * size * step +
                       channel % plan_.lanes
                 : x_values() + (image * shape_.channels + channel) * size;
    const A* from = x_plane(image, channel);
    const int64_t rows = std::min(shape_.height, plan_.padded_height - shape_.pad_top);
    const int64_t columns = std::min(shape_.width, plan_.padded_width - shape_.pad_left);
    for (int64_t y = 0; y < rows; ++y) {
      A* line = to + ((y + shape_.pad_top) * plan_.padded_width + shape_.pad_left) * step;
      const A* source = from + y * x_.stride_height;
      for (int64_t x = 0; x < columns; ++x) line[x * step] = source[x * x_.stride_width];
    }
  }

  void work(int64_t thread, int64_t begin, int64_t end, int64_t groups) {
    if (begin >= end) return;
    char* own = workspace_ + plan_.x_bytes + plan_.counts_bytes + thread * plan_.thread_bytes();
    A* plane = reinterpret_cast<A*>(own);
    A* tile = reinterpret_cast<A*>(own + plan_.plane_bytes);
    std::memset(plane, 0, static_cast<size_t>(plan_.plane_bytes));  // the border stays zero
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / (groups * plan_.blocks), rest = task % (groups * plan_.blocks);
      const int64_t group = rest / plan_.blocks, block = rest % plan_.blocks;
      const int64_t filters =
          plan_.way == Way::kDepthwise ? shape_.filters : shape_.group_filters();
      const int64_t first = group * filters + block * plan_.lanes;
      const int64_t used = std::min(plan_.lanes, filters - block * plan_.lanes);
      std::memset(tile, 0, static_cast<size_t>(plan_.tile_bytes));
      for (int64_t s = 0; s < params_.images_per_row; ++s) {
        const int64_t image = row * params_.images_per_row + s;
        take_gradient(image, first, used, plane);
        add_image(image % shape_.batch, group, block, plane, tile);
      }
      give(row, first, used, tile);
    }
  }

  // One block of channels of one image of the gradient, channels in the lanes.
  void take_gradient(int64_t image, int64_t first, int64_t used, A* plane) const {
    int64_t top = 0, left = 0;  // where output pixel (0, 0) lies in the plane
    if (plan_.way == Way::kLive) {
      top = (shape_.kernel_height - 1) * shape_.dilation_height - shape_.pad_top;
      left = (shape_.kernel_width - 1) * shape_.dilation_width - shape_.pad_left;
    }
    const A* from = static_cast<const A*>(grad_.data) + image * grad_.stride_batch +
                    first * grad_.stride_channel;
    const int64_t lanes = plan_.lanes;
    for (int64_t y = std::max<int64_t>(0, -top);
         y < shape_.out_height && y + top < plan_.plane_height; ++y) {
      const int64_t x0 = std::max<int64_t>(0, -left);
      const int64_t x1 = std::min(shape_.out_width, plan_.plane_width - left);
      A* to = plane + ((y + top) * plan_.plane_width + x0 + left) * lanes;
      const A* pixel = from + y * grad_.stride_height + x0 * grad_.stride_width;
      for (int64_t x = x0; x < x1; ++x, to += lanes, pixel += grad_.stride_width) {
        if (grad_.stride_channel == 1 && used == lanes) {
          std::memcpy(to, pixel, static_cast<size_t>(lanes) * sizeof(A));
          continue;
        }
        for (int64_t l = 0; l < lanes; ++l) {
          to[l] = l < used ? pixel[l * grad_.stride_channel] : A{0};
        }
      }
    }
  }

  void add_image(int64_t image, int64_t group, int64_t block, const A* plane, A* tile) const {
    const int64_t count = static_cast<int64_t>(plan_.taps.size());
    const int64_t size = plan_.padded_height * plan_.padded_width;
    if (plan_.way == Way::kDepthwise) {
      dense(x_values() + (image * plan_.blocks + block) * size * plan_.lanes, plan_.lanes, plane,
            tile);
      return;
    }
    for (int64_t c = 0; c < shape_.group_channels(); ++c) {
      const int64_t map = image * shape_.channels + group * shape_.group_channels() + c;
      A* sums = tile + c * count * plan_.lanes;
      if (plan_.way == Way::kDense) {
        dense(x_values() + map * size, 1, plane, sums);
        continue;
      }
      kernels_.live_sum[kType]({x_values() + map * pixels(), x_offsets() + map * pixels(),
                                x_counts()[map], plane, plan_.taps.data(), count, sums});
    }
  }

  void dense(const A* x, int64_t step, const A* plane, A* sums) const {
    kernels_.dense_sum[kType][step == 1 ? 0 : 1](
        {x, shape_.stride_height * plan_.padded_width * step, shape_.stride_width * step, plane,
         shape_.out_height, shape_.out_width, plan_.taps.data(),
         static_cast<int64_t>(plan_.taps.size()), sums});
  }

  void give(int64_t row, int64_t first, int64_t used, const A* tile) const {
    const int64_t taps = shape_.taps(), lanes = plan_.lanes;
    for (int64_t l = 0; l < used; ++l) {
      const int64_t at = (first + l) * taps;
      A* to = out_ + row * shape_.filters * taps + at;
      const A factor = scale_ != nullptr ? scale_[first + l] : A{1};
      for (int64_t i = 0; i < taps; ++i) to[i] = tile[i * lanes + l] * factor;
      if (mask_ == nullptr) continue;
      for (int64_t i = 0; i < taps; ++i) {
        if (!mask_[at + i]) to[i] = A{0};
      }
    }
  }

  const JacobianParams& params_;
  const Conv2dShape& shape_;
  const Plan plan_;
  const JacobianKernels& kernels_;
  const Strided &grad_, &x_;
  const bool* mask_;
  const A* scale_;
  char* workspace_;
  A* out_;
};

template <class A>
void gram_rows(const GramParams& p, const A* one, const A* two, double* gram, int64_t first) {
  const JacobianKernels& kernels = jacobian_kernels(p.isa);
  const int64_t last = std::min(first + kGramRows, p.one_rows);
  for (int64_t k = 0; k < p.columns; k += kGramDepth) {
    GramTileJob job;
    job.count = std::min(kGramDepth, p.columns - k);
    for (int i = 0; i < kGramRows; ++i) {
      job.one[i] = one + std::min(first + i, p.one_rows - 1) * p.columns + k;
    }
    for (int64_t j = p.same ? first / kGramColumns * kGramColumns : 0; j < p.two_rows;
         j += kGramColumns) {
      for (int c = 0; c < kGramColumns; ++c) {
        job.two[c] = two + std::min(j + c, p.two_rows - 1) * p.columns + k;
      }
      kernels.gram_tile[sizeof(A) == 8 ? 1 : 0](job);
      for (int64_t i = first; i < last; ++i) {
        for (int64_t c = j; c < std::min(j + kGramColumns, p.two_rows); ++c) {
          if (!p.same || c >= i) gram[i * p.two_rows + c] += job.sums[i - first][c - j];
        }
      }
    }
  }
}

template <class A>
void gram_of(const GramParams& p, const A* one, const A* two, double* gram) {
  const int64_t bands = (p.one_rows + kGramRows - 1) / kGramRows;
  parallel_for(p.parallel, bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) {
      gram_rows<A>(p, one, two, gram, band * kGramRows);
    }
  });
  if (!p.same) return;
  for (int64_t i = 0; i < p.one_rows; ++i) {
    for (int64_t j = 0; j < i; ++j) gram[i * p.two_rows + j] = gram[j * p.two_rows + i];
  }
}

}  // namespace

int64_t jacobian_workspace(const JacobianParams& params) {
  const Plan plan(params);
  return plan.x_bytes + plan.counts_bytes +
         std::max<int64_t>(1, params.parallel.threads) * plan.thread_bytes();
}

void jacobian_conv2d_rows(const JacobianParams& params, const Strided& grad, const Strided& x,
                          const bool* mask, const void* scale, void* workspace, void* out) {
  if (params.storage == StorageType::kFloat64) {
    Rows<double>(params, grad, x, mask, static_cast<const double*>(scale), workspace,
                 static_cast<double*>(out))
        .run();
  } else {
    Rows<float>(params, grad, x, mask, static_cast<const float*>(scale), workspace,
                static_cast<float*>(out))
        .run();
  }
}

void jacobian_gram(const GramParams& params, const void* one, const void* two, double* gram) {
  if (params.one_rows == 0 || params.two_rows == 0) return;
  if (params.storage == StorageType::kFloat64) {
    gram_of(params, static_cast<const double*>(one), static_cast<const double*>(two), gram);
  } else {
    gram_of(params, static_cast<const float*>(one), static_cast<const float*>(two), gram);
  }
}

}  // namespace supertickets

// Runs the program of a sweep for one block of cotangents after the other.
#include <algorithm>
#include <cstring>
#include <vector>

#include "ntk_lanes_program.h"

namespace supertickets {
namespace {

constexpr int64_t kMostLanes = 16;
constexpr int64_t kWideStride = 16;  // doubles
// Slices of the images: fixed, so that sums do not depend on the threads. Few where the sums are
// large.
constexpr int64_t kSlices = 8;
constexpr int64_t kManySums = 100000;

class Memory {
 public:
  Memory(const NtkLanesParams& params, int64_t floats)
      : give_(params.give),
        data_(static_cast<float*>(params.take(static_cast<size_t>(floats) * sizeof(float)))) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { give_(data_); }
  float* data() const { return data_; }

 private:
  void (*give_)(void*);
  float* data_;
};

int64_t taps_of(const LaneNode& conv) { return conv.kernel * conv.kernel; }

class Sweep {
 public:
  Sweep(const NtkLanesParams& params, const std::vector<LaneNode>& nodes)
      : params_(params),
        widest_(ntk_lanes_kernels(params.isa)),
        program_(nodes, params.images, widest_.has_taps),
        slices_(std::min(params.images, program_.sum_vectors > kManySums ? 2 : kSlices)),
        stride_((params.images + kWideStride - 1) / kWideStride * kWideStride),
        scratch_floats_(program_.scratch_pixels * widest_.lanes),
        fields_(params, program_.field_pixels * widest_.lanes),
        sums_(params, slices_ * program_.sum_vectors * widest_.lanes),
        scratch_(params, slices_ * scratch_floats_),
        coefficients_(params, program_.coefficient_vectors * widest_.lanes + 1),
        rows_(static_cast<size_t>(params.columns * stride_)) {}

  void run(double* gram) {
    for (LaneLayer& layer : program_.layers) {
      if (layer.conv != nullptr && layer.norm != nullptr) moments(layer);
    }
    for (int64_t first = 0; first < params_.images;) {
      const NtkLanesKernels& kernels = narrowest(params_.images - first);
      sweep(kernels, first);
      first += kernels.lanes;
    }
    product(gram);
  }

 private:
  // The last block takes no more lanes than it has cotangents for.
  const NtkLanesKernels& narrowest(int64_t cotangents) const {
    for (const Isa isa : usable_isas()) {
      if (isa > params_.isa) break;
      if (ntk_lanes_kernels(isa).lanes >= cotangents) return ntk_lanes_kernels(isa);
    }
    return widest_;
  }

  template <class Body>
  void for_each_slice(const Body& body) const {
    parallel_for(params_.parallel, slices_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        body(s, params_.images * s / slices_, params_.images * (s + 1) / slices_);
      }
    });
  }

  void sweep(const NtkLanesKernels& kernels, int64_t first) {
    const int64_t lanes = kernels.lanes, count = std::min(lanes, params_.images - first);
    for (size_t f = 0; f < program_.fields.size(); ++f) {
      program_.fields[f].data = fields_.data() + program_.field_offsets[f] * lanes;
    }
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      const int64_t vector = program_.step_coefficients[i];
      if (vector >= 0) program_.steps[i].coefficients = coefficients_.data() + vector * lanes;
    }
    const int64_t slice_sums = program_.sum_vectors * lanes;
    size_t begin = 0;
    for (int64_t phase = 0; phase < program_.phases; ++phase) {
      size_t end = begin;
      while (end < program_.steps.size() && program_.steps[end].phase == phase) ++end;
      for_each_slice([&](int64_t slice, int64_t from, int64_t to) {
        const LaneBlock block{first, count, sums_.data() + slice * slice_sums,
                              scratch_.data() + slice * scratch_floats_};
        if (phase == 0) {
          std::memset(block.sums, 0, static_cast<size_t>(slice_sums) * sizeof(float));
        }
        for (int64_t image = from; image < to; ++image) {
          for (size_t i = begin; i < end; ++i) kernels.run(program_.steps[i], image, block);
        }
      });
      for (const LaneLayer& layer : program_.layers) {
        if (layer.phase == phase) finish(layer, lanes, first, count);
      }
      begin = end;
    }
  }

  // Sum over the slices, in their order.
  void reduce(int64_t vector, int64_t lanes, double* sum) const {
    std::fill(sum, sum + lanes, 0.0);
    for (int64_t s = 0; s < slices_; ++s) {
      const float* from = sums_.data() + (s * program_.sum_vectors + vector) * lanes;
      for (int64_t l = 0; l < lanes; ++l) sum[l] += from[l];
    }
  }

  void add_row(int64_t column, int64_t first, int64_t count, const double* values) {
    double* row = rows_.data() + column * stride_ + first;
    for (int64_t l = 0; l < count; ++l) row[l] += values[l];
  }

  void finish(const LaneLayer& layer, int64_t lanes, int64_t first, int64_t count) {
    const LaneNode& out = layer.norm != nullptr ? *layer.norm : *layer.conv;
    const int64_t taps = layer.conv != nullptr ? taps_of(*layer.conv) : 0;
    const int64_t depth = layer.inputs * taps;
    const bool rows = layer.conv != nullptr && layer.conv->column >= 0;
    std::vector<double> all(static_cast<size_t>(std::max<int64_t>(depth, 1) * lanes));
    for (int64_t c = 0; c < out.channels; ++c) {
      if (depth > 0) correlation(layer, c, lanes, all.data());
      double one[kMostLanes] = {}, two[kMostLanes] = {}, factor = layer.scale;
      if (layer.norm != nullptr) {
        batch_norm(layer, c, lanes, depth, all.data(), one, two);
        factor = layer.scale * gain(*layer.norm, c);
        if (layer.norm->column >= 0) add_row(layer.norm->column + c, first, count, two);
      }
      for (int64_t d = 0; rows && d < depth; ++d) {
        double values[kMostLanes];
        double x = 0, xx = 0;
        if (layer.norm != nullptr) {
          const double share = gain(*layer.norm, c) / batch_values(out);
          x = share * layer.x[static_cast<size_t>((layer.conv->depthwise ? c * taps : 0) + d)];
          xx = share * layer.xx[static_cast<size_t>(c * depth + d)];
        }
        const double* a = all.data() + d * lanes;
        for (int64_t l = 0; l < lanes; ++l) values[l] = factor * a[l] - x * one[l] - xx * two[l];
        add_row(layer.conv->column + c * depth + d, first, count, values);
      }
    }
  }

  // A of one output channel, [in][tap][lane].
  void correlation(const LaneLayer& layer, int64_t c, int64_t lanes, double* all) const {
    const int64_t taps = taps_of(*layer.conv);
    for (const LanePart& part : layer.parts) {
      const int64_t count = part.rows * part.columns;
      const int64_t sums = program_.steps[static_cast<size_t>(part.step)].sums;
      for (int64_t in = 0; in < layer.inputs; ++in) {
        for (int64_t i = 0; i < count; ++i) {
          reduce(sums + (c * layer.inputs + in) * count + i, lanes,
                 all + (in * taps + part.tap(layer.conv->kernel, i)) * lanes);
        }
      }
    }
  }

  static double gain(const LaneNode& norm, int64_t c) {
    const double gamma = norm.weight != nullptr ? norm.weight[c] : 1.0;
    return gamma * norm.rstd[c];
  }
  double batch_values(const LaneNode& norm) const {
    return static_cast<double>(params_.images * norm.height * norm.width);
  }

  // S1 and S2 of one channel, and the coefficients of the gradient at the norm's input.
  void batch_norm(const LaneLayer& layer, int64_t c, int64_t lanes, int64_t depth,
                  const double* all, double* one, double* two) {
    const LaneNode& norm = *layer.norm;
    const double mean = norm.mean[c], rstd = norm.rstd[c], scale = gain(norm, c);
    reduce(layer.sum + c, lanes, one);
    if (layer.conv == nullptr) {
      reduce(layer.moment + c, lanes, two);
    } else {
      const double bias = layer.conv->bias != nullptr ? layer.conv->bias[c] : 0.0;
      for (int64_t l = 0; l < lanes; ++l) two[l] = (bias - mean) * one[l];
      for (int64_t d = 0; d < depth; ++d) {
        const double weight = layer.conv->weight[c * depth + d];
        for (int64_t l = 0; l < lanes; ++l) two[l] += weight * all[d * lanes + l];
      }
    }
    float* k = coefficients_.data() + (layer.coefficients + c) * lanes;
    const int64_t step = norm.channels * lanes;
    for (int64_t l = 0; l < lanes; ++l) {
      one[l] *= layer.scale;
      two[l] *= layer.scale * rstd;
      const double a = one[l] / batch_values(norm), b = two[l] / batch_values(norm);
      k[l] = static_cast<float>(scale * layer.scale);
      k[step + l] = static_cast<float>(scale * (a - b * mean * rstd));
      k[2 * step + l] = static_cast<float>(scale * b * rstd);
    }
  }

  // The sums of a layer that no cotangent changes: correlations of its input with xhat and with
  // ones, which the same kernel finds with channels in the lanes.
  void moments(LaneLayer& layer) {
    const LaneNode& conv = *layer.conv;
    const int64_t taps = taps_of(conv), depth = layer.inputs * taps;
    layer.xx.assign(static_cast<size_t>(conv.channels * depth), 0.0);
    layer.x.assign(static_cast<size_t>(conv.depthwise ? conv.channels * taps : depth), 0.0);
    const int64_t columns = conv.depthwise ? 2 : conv.channels + 1, lanes = widest_.lanes;
    for (int64_t group = 0; group < (conv.depthwise ? conv.channels : 1); ++group) {
      for (int64_t first = 0; first < columns; first += lanes) {
        const int64_t count = std::min(lanes, columns - first);
        const std::vector<float> sums = correlate_columns(layer, group, first, count);
        for (int64_t l = 0; l < count; ++l) {
          const bool ones = first + l == columns - 1;
          const int64_t channel = conv.depthwise ? group : first + l;
          double* to = ones ? layer.x.data() + (conv.depthwise ? group * taps : 0)
                            : layer.xx.data() + channel * depth;
          add_columns(layer, sums, l, to);
        }
      }
    }
  }

  void add_columns(const LaneLayer& layer, const std::vector<float>& sums, int64_t lane,
                   double* to) const {
    const int64_t taps = taps_of(*layer.conv), lanes = widest_.lanes;
    for (int64_t s = 0; s < slices_; ++s) {
      const float* from = sums.data() + s * layer.inputs * taps * lanes + lane;
      for (const LanePart& part : layer.parts) {
        for (int64_t in = 0; in < layer.inputs; ++in) {
          for (int64_t i = 0; i < part.rows * part.columns; ++i, from += lanes) {
            to[in * taps + part.tap(layer.conv->kernel, i)] += *from;
          }
        }
      }
    }
  }

  // [slice][part][in][tap][lane]
  std::vector<float> correlate_columns(const LaneLayer& layer, int64_t group, int64_t first,
                                       int64_t count) {
    const LaneNode& conv = *layer.conv;
    const int64_t lanes = widest_.lanes;
    const LaneStep& model = program_.steps[static_cast<size_t>(layer.parts[0].step)];
    const LaneLevel level = model.gradient->level;
    const int64_t slice_sums = layer.inputs * taps_of(conv) * lanes;
    std::vector<float> sums(static_cast<size_t>(slices_ * slice_sums));
    for_each_slice([&](int64_t slice, int64_t from, int64_t to) {
      const LaneField field{scratch_.data() + slice * scratch_floats_, 1, level, 0};
      std::memset(field.data, 0,
                  static_cast<size_t>((level.lead + level.plane) * lanes) * sizeof(float));
      for (int64_t image = from; image < to; ++image) {
        fill_columns(layer, group, first, count, image, field);
        float* at = sums.data() + slice * slice_sums;
        for (const LanePart& part : layer.parts) {
          LaneStep step = program_.steps[static_cast<size_t>(part.step)];
          PixelList list = *step.pixels;
          if (conv.depthwise) list.begin += group * list.rows;
          step.gradient = &field;
          step.first = step.sums = 0;
          step.channels = 1;
          step.inputs = layer.inputs;
          step.depthwise = false;
          step.pixels = &list;
          widest_.run(step, image, {0, count, at, nullptr});
          at += layer.inputs * part.rows * part.columns * lanes;
        }
      }
    });
    return sums;
  }

  void fill_columns(const LaneLayer& layer, int64_t group, int64_t first, int64_t count,
                    int64_t image, const LaneField& field) const {
    const LaneNode &conv = *layer.conv, &norm = *layer.norm;
    const int64_t lanes = widest_.lanes, ones = conv.depthwise ? 1 : conv.channels;
    for (int64_t l = 0; l < count; ++l) {
      const int64_t c = conv.depthwise ? group : first + l;
      const bool one = first + l == ones;
      const float mean = one ? 0.0F : norm.mean[c], rstd = one ? 0.0F : norm.rstd[c];
      const float* value =
          conv.value + (image * conv.channels + (one ? 0 : c)) * conv.height * conv.width;
      for (int64_t y = 0; y < conv.height; ++y) {
        float* to = field.data + (field.level.lead + y * field.level.pitch) * lanes + l;
        for (int64_t x = 0; x < conv.width; ++x, ++value) {
          to[x * lanes] = one ? 1.0F : (*value - mean) * rstd;
        }
      }
    }
  }

  void product(double* gram) {
    std::vector<double> all(static_cast<size_t>(stride_ * stride_));
    const int64_t tile = widest_.gram_tile;
    parallel_for(params_.parallel, stride_ / tile, 1, [&](int64_t begin, int64_t end) {
      widest_.gram({rows_.data(), params_.columns, stride_, all.data(), begin * tile, end * tile});
    });
    for (int64_t i = 0; i < params_.images; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        const double value = all[static_cast<size_t>(i * stride_ + j)];
        gram[i * params_.images + j] = gram[j * params_.images + i] = value;
      }
    }
  }

  const NtkLanesParams& params_;
  const NtkLanesKernels& widest_;
  LaneProgram program_;
  int64_t slices_, stride_, scratch_floats_;
  Memory fields_, sums_, scratch_, coefficients_;
  std::vector<double> rows_;  // [columns][stride]
};

}  // namespace

void ntk_lanes_gram(const NtkLanesParams& params, const std::vector<LaneNode>& nodes,
                    double* gram) {
  Sweep(params, nodes).run(gram);
}

}  // namespace supertickets

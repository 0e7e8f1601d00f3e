#include "ntk_lanes_program.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace supertickets {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

// Classes of taps along one axis: tap t = first + j * every reads pixel p0 - j * spacing.
struct Axis {
  int64_t first, count, residue,
      shift;  // an input pixel q = residue mod stride: p0 = q / s + shift
};

std::vector<Axis> axes(int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t every = stride / std::gcd(stride, dilation);
  std::vector<Axis> result;
  for (int64_t first = 0; first < std::min(every, kernel); ++first) {
    const int64_t at = first * dilation - padding;
    const int64_t whole = floor_div(at, stride);
    result.push_back({first, (kernel - first + every - 1) / every, at - whole * stride, -whole});
  }
  return result;
}

}  // namespace

LaneProgram::LaneProgram(const std::vector<LaneNode>& nodes, int64_t images,
                         bool (*has_taps)(int64_t, int64_t, int64_t))
    : nodes_(nodes),
      images_(images),
      has_taps_(has_taps),
      gradients_(nodes.size()),
      users_(nodes.size(), 0) {
  for (const LaneNode& n : nodes) {
    for (const int64_t i : n.inputs) ++users_[static_cast<size_t>(i)];
  }
  reserve_borders();
  for (int64_t i = static_cast<int64_t>(nodes.size()) - 1; i > 0; --i) {
    const Gradient& g = gradients_[static_cast<size_t>(i)];
    if (node(i).kind == LaneNodeKind::kHead) {
      LaneStep& step = contribute(node(i).inputs[0], LaneStepKind::kStart, {nullptr, 0, 0, 0, 1});
      step.weight = node(i).weight;
    } else if (g.field != nullptr || !g.flows.empty()) {
      visit(i, take(i));
    }
  }
  order();
  place();
}

// How far the convolutions read beyond each resolution's edges.
void LaneProgram::reserve_borders() {
  for (const LaneNode& n : nodes_) {
    int64_t& border = borders_[{n.height, n.width}];
    if (n.kind != LaneNodeKind::kConv) continue;
    const LaneNode& x = node(n.inputs[0]);
    const int64_t reach = (n.kernel - 1) * n.dilation;
    const auto need = [&](int64_t in, int64_t out, int64_t padding) {
      const int64_t low = floor_div(padding - reach, n.stride);
      const int64_t high = floor_div(in - 1 + padding, n.stride) - (out - 1);
      return std::max({-low, high, int64_t{0}});
    };
    border = std::max(
        {border, need(x.height, n.height, n.padding_y), need(x.width, n.width, n.padding_x)});
  }
}

LaneLevel LaneProgram::level(int64_t height, int64_t width) const {
  const int64_t border = borders_.at({height, width}), pitch = width + border;
  return {height, width, border, pitch, (height + border) * pitch, border * pitch + border};
}

LaneStep& LaneProgram::emit(LaneStepKind kind, const Flow& from) {
  LaneStep step{};
  step.kind = kind;
  step.phase = from.phase;
  step.gradient = from.field;
  step.first = from.first;
  step.channels = from.channels;
  step.scale = static_cast<float>(from.scale);
  steps.push_back(step);
  step_coefficients.push_back(-1);
  return steps.back();
}

LaneStep& LaneProgram::contribute(int64_t to, LaneStepKind kind, const Flow& from) {
  Gradient& g = gradients_[static_cast<size_t>(to)];
  if (g.field == nullptr) {
    const LaneLevel at = level(node(to).height, node(to).width);
    fields.push_back({nullptr, node(to).channels, at, at.lead + node(to).channels * at.plane});
    g.field = &fields.back();
    scratch_pixels =
        std::max({scratch_pixels, at.lead + kLaneGroup * at.plane, 3 * (at.width + 2)});
  }
  g.writers.push_back(steps.size());
  LaneStep& step = emit(kind, from);
  step.out = g.field;
  return step;
}

// The whole gradient of a node. What writes a field waits for the last share of it, so that the
// field passes through memory once.
LaneProgram::Flow LaneProgram::take(int64_t i) {
  Gradient& g = gradients_[static_cast<size_t>(i)];
  if (g.field == nullptr && g.flows.size() == 1) return g.flows[0];
  for (const Flow& flow : g.flows) contribute(i, LaneStepKind::kAdd, flow);
  int64_t phase = 0;
  for (const size_t w : g.writers) phase = std::max(phase, steps[w].phase);
  for (const size_t w : g.writers) steps[w].phase = phase;
  steps[g.writers.front()].clears = true;
  return {g.field, 0, node(i).channels, phase, 1.0};
}

void LaneProgram::visit(int64_t i, const Flow& flow) {
  const LaneNode& n = node(i);
  const auto give = [&](int64_t to, const Flow& share) {
    if (node(to).kind != LaneNodeKind::kInput) {
      gradients_[static_cast<size_t>(to)].flows.push_back(share);
    }
  };
  Flow share = flow;
  switch (n.kind) {
    case LaneNodeKind::kAdd:
      give(n.inputs[0], flow);
      share.scale *= n.scale;
      return give(n.inputs[1], share);
    case LaneNodeKind::kScale:
      share.scale *= n.scale;
      return give(n.inputs[0], share);
    case LaneNodeKind::kCat:
      for (const int64_t part : n.inputs) {
        share.channels = node(part).channels;
        give(part, share);
        share.first += share.channels;
      }
      return;
    case LaneNodeKind::kConv:
      return visit_conv(i, -1, flow);
    case LaneNodeKind::kBatchNorm: {
      const int64_t from = n.inputs[0];
      const bool fused =
          node(from).kind == LaneNodeKind::kConv && users_[static_cast<size_t>(from)] == 1;
      return fused ? visit_conv(from, i, flow) : visit_norm(i, flow);
    }
    default:
      break;
  }
  const int64_t to = n.inputs[0];
  if (node(to).kind == LaneNodeKind::kInput) return;
  if (n.kind == LaneNodeKind::kRelu) {
    const LaneLevel at = level(n.height, n.width);
    const PixelList* list = live(i, true, 1, 0, 0, at);
    contribute(to, LaneStepKind::kMask, flow).pixels = list;
    return;
  }
  const bool box =
      n.kind == LaneNodeKind::kAveragePool && n.kernel == 3 && n.stride == 1 && n.padding_y == 1;
  LaneStep& step = contribute(to,
                              box                                    ? LaneStepKind::kBox
                              : n.kind == LaneNodeKind::kAveragePool ? LaneStepKind::kAveragePool
                                                                     : LaneStepKind::kMaxPool,
                              flow);
  step.value = n.weight;
  step.index = n.index;
  step.kernel = n.kernel;
  step.stride = n.stride;
  step.padding = n.padding_y;
}

void LaneProgram::visit_norm(int64_t i, Flow flow) {
  const LaneNode &n = node(i), &x = node(n.inputs[0]);
  LaneLayer layer{flow.phase,          nullptr, &n, {}, total(flow), sums(n.channels), flow.scale,
                  coefficient_vectors, 0,       {}, {}};
  coefficient_vectors += 3 * n.channels;
  LaneStep& moment = emit(LaneStepKind::kMoment, flow);
  moment.value = x.value;
  moment.mean = n.mean;
  moment.sums = layer.moment;
  layers.push_back(layer);
  if (x.kind == LaneNodeKind::kInput) return;
  ++flow.phase;
  contribute(n.inputs[0], LaneStepKind::kNormalize, flow).value = x.value;
  step_coefficients.back() = layer.coefficients;
}

void LaneProgram::visit_conv(int64_t conv, int64_t norm, Flow flow) {
  const LaneNode& n = node(conv);
  const int64_t source = n.inputs[0];
  const bool rectified = node(source).kind == LaneNodeKind::kRelu;
  const int64_t target = rectified ? node(source).inputs[0] : source;
  LaneLayer layer{flow.phase, &n, norm < 0 ? nullptr : &node(norm),        {}, -1, -1,
                  flow.scale, -1, n.depthwise ? 1 : node(source).channels, {}, {}};
  if (norm >= 0) {
    layer.sum = total(flow);
    layer.coefficients = coefficient_vectors;
    coefficient_vectors += 3 * n.channels;
  }
  const LaneLevel from = level(n.height, n.width);
  const int64_t every = n.stride / std::gcd(n.stride, n.dilation);
  const int64_t spacing = n.dilation * every / n.stride;
  for (const Axis& y : axes(n.kernel, n.stride, n.padding_y, n.dilation)) {
    for (const Axis& x : axes(n.kernel, n.stride, n.padding_x, n.dilation)) {
      const LanePart part{
          static_cast<int64_t>(steps.size()), y.first, x.first, every, y.count, x.count};
      if (!has_taps_(y.count, x.count, y.count * x.count == 1 ? 1 : spacing)) {
        throw std::invalid_argument("a convolution with a " + std::to_string(n.kernel) +
                                    " wide kernel, stride " + std::to_string(n.stride) +
                                    " and dilation " + std::to_string(n.dilation));
      }
      LaneStep common{};
      common.tap_rows = y.count;
      common.tap_columns = x.count;
      common.spacing = y.count * x.count == 1 ? 1 : spacing;
      common.shift = y.shift * from.pitch + x.shift;
      common.inputs = node(source).channels;
      common.depthwise = n.depthwise;
      common.pixels = live(source, rectified, n.stride, y.residue, x.residue, from);
      const auto take_over = [&](LaneStep& step) {
        LaneStep whole = common;
        whole.kind = step.kind;
        whole.phase = step.phase;
        whole.gradient = step.gradient;
        whole.first = step.first;
        whole.channels = step.channels;
        whole.out = step.out;
        step = whole;
      };
      take_over(emit(LaneStepKind::kCorrelate, flow));
      steps.back().sums = sums(n.channels * layer.inputs * y.count * x.count);
      layer.parts.push_back(part);
      if (node(target).kind == LaneNodeKind::kInput) continue;
      Flow later = flow;
      if (norm >= 0) ++later.phase;
      take_over(contribute(target, LaneStepKind::kSpread, later));
      steps.back().weight = pack(n, part, norm >= 0 ? 1.0 : flow.scale);
      steps.back().value = n.value;
      step_coefficients.back() = layer.coefficients;
    }
  }
  layers.push_back(std::move(layer));
}

int64_t LaneProgram::sums(int64_t vectors) {
  sum_vectors += vectors;
  return sum_vectors - vectors;
}

// S1 belongs to the field: all layers that read it share the sum.
int64_t LaneProgram::total(const Flow& flow) {
  const auto key = std::make_tuple(flow.field, flow.first, flow.channels);
  const auto found = totals_.find(key);
  if (found != totals_.end()) return found->second;
  LaneStep& step = emit(LaneStepKind::kSum, flow);
  step.sums = sums(flow.channels);
  return totals_[key] = step.sums;
}

const PixelList* LaneProgram::live(int64_t i, bool rectified, int64_t stride, int64_t residue_y,
                                   int64_t residue_x, const LaneLevel& from) {
  const LaneNode& n = node(i);
  // Every rectifier of one value has the same live pixels.
  const int64_t of = rectified ? n.inputs[0] : i;
  const auto key = std::make_tuple(of, rectified, stride, residue_y, residue_x,
                                   from.height * (int64_t{1} << 32) + from.width);
  const auto found = lists_.find(key);
  if (found != lists_.end()) return &found->second.list;
  Lists& lists = lists_[key];
  const LaneLevel to = level(n.height, n.width);
  const int64_t rows = std::max<int64_t>(0, (n.height - residue_y + stride - 1) / stride);
  const int64_t wide = std::max<int64_t>(0, (n.width - residue_x + stride - 1) / stride);
  const size_t most = static_cast<size_t>(images_ * n.channels * rows * wide) + 1;
  lists.from.resize(most);
  lists.to.resize(most);
  lists.value.resize(most);
  lists.begin.reserve(static_cast<size_t>(images_ * n.channels * rows) + 1);
  size_t count = 0;
  for (int64_t plane = 0; plane < images_ * n.channels; ++plane) {
    for (int64_t r = 0; r < rows; ++r) {
      lists.begin.push_back(static_cast<int32_t>(count));
      const int64_t y = residue_y + r * stride;
      const float* value = n.value + (plane * n.height + y) * n.width;
      const int64_t from_row = from.lead + r * from.pitch, to_row = to.lead + y * to.pitch;
      for (int64_t c = 0, x = residue_x; x < n.width; ++c, x += stride) {
        lists.from[count] = static_cast<int32_t>(from_row + c);
        lists.to[count] = static_cast<int32_t>(to_row + x);
        lists.value[count] = value[x];
        count += !rectified || value[x] > 0 ? 1 : 0;
      }
    }
  }
  lists.begin.push_back(static_cast<int32_t>(count));
  lists.list = {lists.begin.data(), lists.from.data(), lists.to.data(),
                lists.value.data(), n.channels,        rows};
  return &lists.list;
}

const float* LaneProgram::pack(const LaneNode& conv, const LanePart& part, double scale) {
  const int64_t inputs = conv.depthwise ? 1 : node(conv.inputs[0]).channels;
  const int64_t taps = conv.kernel * conv.kernel;
  std::vector<float>& packed = weights_.emplace_back();
  for (int64_t pair = 0; pair < conv.channels * inputs; ++pair) {
    for (int64_t i = 0; i < part.rows * part.columns; ++i) {
      const double weight = conv.weight[pair * taps + part.tap(conv.kernel, i)];
      packed.push_back(static_cast<float>(scale * weight));
    }
  }
  return packed.data();
}

// By phase; within one as emitted.
void LaneProgram::order() {
  std::vector<size_t> by_phase(steps.size()), place(steps.size());
  std::iota(by_phase.begin(), by_phase.end(), 0);
  std::stable_sort(by_phase.begin(), by_phase.end(),
                   [&](size_t a, size_t b) { return steps[a].phase < steps[b].phase; });
  std::vector<LaneStep> sorted;
  std::vector<int64_t> coefficients;
  for (const size_t i : by_phase) {
    place[i] = sorted.size();
    sorted.push_back(steps[i]);
    coefficients.push_back(step_coefficients[i]);
    phases = std::max(phases, steps[i].phase + 1);
  }
  steps = std::move(sorted);
  step_coefficients = std::move(coefficients);
  for (LaneLayer& layer : layers) {
    for (LanePart& part : layer.parts) {
      part.step = static_cast<int64_t>(place[static_cast<size_t>(part.step)]);
    }
  }
}

// First fit among the fields that live in the same phases.
void LaneProgram::place() {
  struct Place {
    int64_t begin, end, offset, size;
  };
  std::vector<Place> places;
  for (const LaneField& field : fields) {
    Place place{phases, -1, 0, images_ * field.image};
    for (const LaneStep& step : steps) {
      if (step.gradient != &field && step.out != &field) continue;
      place.begin = std::min(place.begin, step.phase);
      place.end = std::max(place.end, step.phase);
    }
    bool moved = true;
    while (moved) {
      moved = false;
      for (const Place& other : places) {
        const bool together = other.begin <= place.end && place.begin <= other.end;
        if (together && other.offset < place.offset + place.size &&
            place.offset < other.offset + other.size) {
          place.offset = other.offset + other.size;
          moved = true;
        }
      }
    }
    places.push_back(place);
    field_offsets.push_back(place.offset);
    field_pixels = std::max(field_pixels, place.offset + place.size);
  }
}

}  // namespace supertickets

// From a recorded network to the program of a sweep, see ntk_lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "ntk_lanes.h"

namespace supertickets {

enum class LaneNodeKind : int64_t {
  kInput,
  kConv,       // weight; stride, padding, dilation, kernel; depthwise or not
  kBatchNorm,  // mean, rstd; gamma (weight) or null
  kRelu,
  kAdd,          // scale: of the second input
  kScale,        // scale
  kCat,          // along channels
  kAveragePool,  // kernel, stride, padding; weight: 1 / count of each output pixel [H, W]
  kMaxPool,      // index: flat input pixel of every output
  kHead          // weight [C]: derivative of a sample's number by each of its pixels
};

struct LaneNode {
  LaneNodeKind kind;
  std::vector<int64_t> inputs;
  int64_t channels, height, width;
  const float* value;  // [N, C, H, W]
  const float* weight;
  const float* bias;         // of a convolution, or null
  const float *mean, *rstd;  // [C]
  const int32_t* index;
  int64_t column;  // first Jacobian column of the weight, or -1
  int64_t kernel, stride, padding_y, padding_x, dilation;
  bool depthwise;
  float scale;
};

// A correlation with the taps of one class: with stride s a live pixel meets every s-th tap only.
struct LanePart {
  int64_t step;  // its correlation
  int64_t first_y, first_x, every, rows, columns;
  int64_t tap(int64_t kernel, int64_t i) const {
    return (first_y + i / columns * every) * kernel + first_x + i % columns * every;
  }
};

// Sums of one layer that become Jacobian columns and batch-norm coefficients when a phase ends.
struct LaneLayer {
  int64_t phase;
  const LaneNode* conv;  // or null
  const LaneNode* norm;  // or null
  std::vector<LanePart> parts;
  int64_t sum, moment;     // first vectors of S1 and of the moment, or -1
  double scale;            // of the field that the sums were taken of
  int64_t coefficients;    // first vector, or -1
  int64_t inputs;          // per output channel
  std::vector<double> x;   // sums over the batch: x [in][tap], or [channel][tap] if depthwise
  std::vector<double> xx;  // and xhat x [out][in][tap]
};

class LaneProgram {
 public:
  // `nodes` must outlive the program. Throws std::invalid_argument for what has no kernel.
  LaneProgram(const std::vector<LaneNode>& nodes, int64_t images,
              bool (*has_taps)(int64_t, int64_t, int64_t));

  std::vector<LaneStep> steps;             // by phase
  std::vector<int64_t> step_coefficients;  // first vector of each step, or -1
  std::deque<LaneField> fields;
  std::vector<int64_t> field_offsets;  // pixels
  std::vector<LaneLayer> layers;
  int64_t phases = 0, sum_vectors = 0, coefficient_vectors = 0;
  int64_t field_pixels = 0, scratch_pixels = 0;

 private:
  struct Flow {  // a share of a node's gradient
    LaneField* field;
    int64_t first, channels, phase;
    double scale;
  };
  struct Gradient {
    std::vector<Flow> flows;
    LaneField* field = nullptr;
    std::vector<size_t> writers;
  };
  struct Lists {
    std::vector<int32_t> begin, from, to;
    std::vector<float> value;
    PixelList list;
  };

  const LaneNode& node(int64_t i) const { return nodes_[static_cast<size_t>(i)]; }
  LaneLevel level(int64_t height, int64_t width) const;
  void reserve_borders();
  LaneStep& emit(LaneStepKind kind, const Flow& from);
  LaneStep& contribute(int64_t to, LaneStepKind kind, const Flow& from);
  Flow take(int64_t i);
  void visit(int64_t i, const Flow& flow);
  void visit_conv(int64_t conv, int64_t norm, Flow flow);
  void visit_norm(int64_t i, Flow flow);
  int64_t total(const Flow& flow);
  int64_t sums(int64_t vectors);
  const PixelList* live(int64_t i, bool rectified, int64_t stride, int64_t residue_y,
                        int64_t residue_x, const LaneLevel& from);
  const float* pack(const LaneNode& conv, const LanePart& part, double scale);
  void order();
  void place();

  const std::vector<LaneNode>& nodes_;
  int64_t images_;
  bool (*has_taps_)(int64_t, int64_t, int64_t);
  std::vector<Gradient> gradients_;
  std::vector<int64_t> users_;
  std::map<std::pair<int64_t, int64_t>, int64_t> borders_;
  std::map<std::tuple<int64_t, bool, int64_t, int64_t, int64_t, int64_t>, Lists> lists_;
  std::map<std::tuple<const LaneField*, int64_t, int64_t>, int64_t> totals_;
  std::deque<std::vector<float>> weights_;
};

struct NtkLanesParams {
  int64_t images, columns;  // N, and of the Jacobian
  Parallel parallel;
  Isa isa;
  void* (*take)(size_t bytes);  // memory aligned to 64 bytes
  void (*give)(void* memory);
};

// Gram matrix [N, N] of the derivatives of each sample's number, by the weights that have columns.
// Bit for bit the same for any number of threads.
void ntk_lanes_gram(const NtkLanesParams& params, const std::vector<LaneNode>& nodes, double* gram);

}  // namespace supertickets

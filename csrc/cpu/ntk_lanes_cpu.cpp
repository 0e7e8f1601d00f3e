// Binds the sweep of the coupled Gram matrix to tensors.
#include "../core/ntk_lanes_check.h"
#include "memory_pool.h"
#include "ntk_lanes_program.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

constexpr const char* kOp = "ntk_lanes_gram: ";

// One row of the table, checked against the nodes before it.
class NodeReader {
 public:
  NodeReader(const Tensor& table, const Tensor& links, const Tensor& scales,
             const std::vector<Tensor>& tensors, int64_t images, int64_t columns)
      : table_(static_cast<const int64_t*>(table.data_ptr())),
        links_(static_cast<const int64_t*>(links.data_ptr())),
        scales_(static_cast<const float*>(scales.data_ptr())),
        link_count_(links.size(0)),
        tensors_(tensors),
        images_(images),
        columns_(columns) {}

  void read(int64_t i, std::vector<LaneNode>& nodes) {
    row_ = table_ + i * kLaneColumns;
    LaneNode n{};
    const auto kind = row_[kLaneKind];
    require(0 <= kind && kind <= static_cast<int64_t>(LaneNodeKind::kHead), i, "a known kind");
    n.kind = static_cast<LaneNodeKind>(kind);
    n.channels = row_[kLaneChannels];
    n.height = row_[kLaneHeight];
    n.width = row_[kLaneWidth];
    n.column = row_[kLaneColumn];
    n.kernel = row_[kLaneKernel];
    n.stride = row_[kLaneStride];
    n.padding_y = row_[kLanePaddingY];
    n.padding_x = row_[kLanePaddingX];
    n.dilation = row_[kLaneDilation];
    n.depthwise = row_[kLaneDepthwise] != 0;
    n.scale = scales_[i];
    require(n.channels > 0 && n.height > 0 && n.width > 0, i, "positive sizes");
    inputs(i, n);
    const bool input = n.kind == LaneNodeKind::kInput;
    require(input == n.inputs.empty() && input == (i == 0), i, "inputs, unless it is node 0");
    shapes(i, n, nodes);
    tensors(i, n, nodes);
    nodes.push_back(std::move(n));
  }

 private:
  void require(bool good, int64_t i, const char* what) const {
    STD_TORCH_CHECK(good, kOp, "node ", i, " must have ", what);
  }

  void inputs(int64_t i, LaneNode& n) const {
    const int64_t first = row_[kLaneFirstInput], count = row_[kLaneInputs];
    require(0 <= first && 0 <= count && first <= link_count_ - count, i, "inputs within links");
    for (int64_t k = first; k < first + count; ++k) {
      require(0 <= links_[k] && links_[k] < i, i, "inputs that come before it");
      n.inputs.push_back(links_[k]);
    }
  }

  void shapes(int64_t i, const LaneNode& n, const std::vector<LaneNode>& nodes) const {
    if (n.kind == LaneNodeKind::kInput) return;
    const bool windowed = n.kind == LaneNodeKind::kConv || n.kind == LaneNodeKind::kAveragePool ||
                          n.kind == LaneNodeKind::kMaxPool;
    const size_t expected = n.kind == LaneNodeKind::kAdd ? 2 : 1;
    require(n.kind == LaneNodeKind::kCat || n.inputs.size() == expected, i, "its number of inputs");
    int64_t channels = 0;
    for (const int64_t k : n.inputs) {
      const LaneNode& x = nodes[static_cast<size_t>(k)];
      require(windowed || (x.height == n.height && x.width == n.width), i, "its inputs' size");
      require(
          n.kind == LaneNodeKind::kConv || n.kind == LaneNodeKind::kCat || x.channels == n.channels,
          i, "its inputs' channels");
      require(!n.depthwise || x.channels == n.channels, i, "its inputs' channels (depthwise)");
      channels += x.channels;
    }
    require(n.kind != LaneNodeKind::kCat || channels == n.channels, i, "its inputs' channels");
    require(!windowed || (n.kernel > 0 && n.stride > 0 && n.kernel < 64), i, "a kernel and stride");
    require(n.kind != LaneNodeKind::kConv || n.dilation > 0, i, "a positive dilation");
  }

  void tensors(int64_t i, LaneNode& n, const std::vector<LaneNode>& nodes) const {
    using Kind = LaneNodeKind;
    const int64_t pixels = n.height * n.width, all = images_ * n.channels * pixels;
    const bool conv = n.kind == Kind::kConv, norm = n.kind == Kind::kBatchNorm;
    const bool head = n.kind == Kind::kHead, pool = n.kind == Kind::kAveragePool;
    int64_t weights = pool ? pixels : n.channels;
    if (conv) {
      const int64_t inputs = n.depthwise ? 1 : nodes[static_cast<size_t>(n.inputs[0])].channels;
      weights *= inputs * n.kernel * n.kernel;
    }
    n.value = floats(i, "value", kLaneValue, all, n.kind == Kind::kRelu);
    const bool reads = conv || norm;
    require(!reads || nodes[static_cast<size_t>(n.inputs[0])].value != nullptr, i,
            "an input whose value is given");
    n.weight = floats(i, "weight", kLaneWeight, weights, conv || head || pool);
    n.bias = floats(i, "bias", kLaneBias, n.channels, false);
    n.mean = floats(i, "mean", kLaneMean, n.channels, norm);
    n.rstd = floats(i, "rstd", kLaneRstd, n.channels, norm);
    if (n.column >= 0) {
      require((conv || (norm && n.weight != nullptr)) && n.column <= columns_ - weights, i,
              "columns within the Jacobian");
    }
    if (n.kind != Kind::kMaxPool) return;
    n.index = static_cast<const int32_t*>(
        lane_tensor(tensors_, i, "index", row_[kLaneIndex], all, ScalarType::Int, true));
    const LaneNode& x = nodes[static_cast<size_t>(n.inputs[0])];
    bool good = true;
    for (int64_t k = 0; k < all; ++k) good &= 0 <= n.index[k] && n.index[k] < x.height * x.width;
    require(good, i, "indices of its input's pixels");
  }

  const float* floats(int64_t i, const char* role, int64_t column, int64_t elements,
                      bool needed) const {
    return static_cast<const float*>(
        lane_tensor(tensors_, i, role, row_[column], elements, ScalarType::Float, needed));
  }

  const int64_t *table_, *links_, *row_ = nullptr;
  const float* scales_;
  int64_t link_count_;
  const std::vector<Tensor>& tensors_;
  int64_t images_, columns_;
};

Tensor ntk_lanes_gram_cpu(const Tensor& table, const Tensor& links, const Tensor& scales,
                          std::vector<Tensor> tensors, int64_t images, int64_t columns) {
  check_lane_table(table, links, scales, images, columns);
  std::vector<LaneNode> nodes;
  NodeReader reader(table, links, scales, tensors, images, columns);
  for (int64_t i = 0; i < table.size(0); ++i) reader.read(i, nodes);
  Tensor gram = torch::stable::new_empty(scales, {images, images}, ScalarType::Double);
  ntk_lanes_gram({images, columns, torch_parallel(), selected_isa(), &pool_take, &pool_give}, nodes,
                 static_cast<double*>(gram.data_ptr()));
  return gram;
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("ntk_lanes_gram", TORCH_BOX(&supertickets::ntk_lanes_gram_cpu));
}

// The argument contract of region_patterns: a table of nodes, each naming its tensors by number.
#pragma once

#include <vector>

#include "region_node.h"
#include "tensor.h"

namespace supertickets {

// Columns of the table.
enum RegionColumn : int64_t {
  kRegionKind,
  kRegionFirstInput,  // in `links`
  kRegionInputs,
  kRegionChannels,
  kRegionHeight,
  kRegionWidth,
  kRegionKernelY,
  kRegionKernelX,
  kRegionStride,
  kRegionPaddingY,
  kRegionPaddingX,
  kRegionDilation,
  kRegionGroups,
  kRegionCountsPadding,
  kRegionWeight,  // tensors, or -1
  kRegionBias,
  kRegionColumns
};

inline constexpr int64_t kRegionMost = int64_t{1} << 20;  // of offsets, and of a value's elements

inline constexpr const char* kRegionOp = "region_patterns: ";

inline void check_region_table(const Tensor& nodes, const Tensor& links, const Tensor& scales,
                               const Tensor& x, int64_t batch) {
  STD_TORCH_CHECK(nodes.dim() == 2 && nodes.size(1) == kRegionColumns && nodes.size(0) > 0 &&
                      nodes.scalar_type() == ScalarType::Long && nodes.is_contiguous(),
                  kRegionOp, "nodes must be contiguous int64 [nodes >= 1, ",
                  int64_t{kRegionColumns}, "], got shape ", shape_text(nodes));
  STD_TORCH_CHECK(
      links.dim() == 1 && links.scalar_type() == ScalarType::Long && links.is_contiguous(),
      kRegionOp, "links must be contiguous int64 [n], got shape ", shape_text(links));
  STD_TORCH_CHECK(scales.dim() == 1 && scales.size(0) == nodes.size(0) &&
                      scales.scalar_type() == ScalarType::Float && scales.is_contiguous(),
                  kRegionOp, "scales must be contiguous float32 [nodes], got shape ",
                  shape_text(scales));
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float, kRegionOp,
                  "x must be float32 [N, C, H, W], got shape ", shape_text(x));
  STD_TORCH_CHECK(nodes.is_cpu() && links.is_cpu() && scales.is_cpu(), kRegionOp,
                  "nodes, links and scales must be on the CPU, wherever x is");
  STD_TORCH_CHECK(batch > 0, kRegionOp, "batch must be positive, got ", batch);
}

// Reads the rows of a table, each checked against those before it.
class RegionReader {
 public:
  RegionReader(const Tensor& table, const Tensor& links, const Tensor& scales,
               const std::vector<Tensor>& tensors, const Tensor& x)
      : table_(static_cast<const int64_t*>(table.data_ptr())),
        links_(static_cast<const int64_t*>(links.data_ptr())),
        scales_(static_cast<const float*>(scales.data_ptr())),
        link_count_(links.size(0)),
        tensors_(tensors),
        x_(x) {}

  void read(int64_t i, std::vector<RegionNode>& nodes) {
    row_ = table_ + i * kRegionColumns;
    RegionNode n{};
    require(
        0 <= row_[kRegionKind] && row_[kRegionKind] <= static_cast<int64_t>(RegionKind::kWindow), i,
        "a known kind");
    n.kind = static_cast<RegionKind>(row_[kRegionKind]);
    for (int64_t c = kRegionChannels; c <= kRegionGroups; ++c) {
      const bool padding = c == kRegionPaddingY || c == kRegionPaddingX;
      require((padding ? -kRegionMost : 1) <= row_[c] && row_[c] <= kRegionMost, i,
              "sizes within their bounds");
    }
    n.channels = row_[kRegionChannels];
    n.height = row_[kRegionHeight];
    n.width = row_[kRegionWidth];
    n.kernel_y = row_[kRegionKernelY];
    n.kernel_x = row_[kRegionKernelX];
    n.stride = row_[kRegionStride];
    n.padding_y = row_[kRegionPaddingY];
    n.padding_x = row_[kRegionPaddingX];
    n.dilation = row_[kRegionDilation];
    n.groups = row_[kRegionGroups];
    require(n.rows() <= kRegionMost, i, "a size within bounds");
    n.counts_padding = row_[kRegionCountsPadding] != 0;
    n.scale = scales_[i];
    inputs(i, n);
    if (i > 0) shapes(i, n, nodes);
    nodes.push_back(n);
  }

 private:
  void require(bool good, int64_t i, const char* what) const {
    STD_TORCH_CHECK(good, kRegionOp, "node ", i, " must have ", what);
  }

  void inputs(int64_t i, RegionNode& n) const {
    const int64_t first = row_[kRegionFirstInput], count = row_[kRegionInputs];
    require(0 <= first && 0 <= count && first <= link_count_ - count, i, "inputs within links");
    for (int64_t k = first; k < first + count; ++k) {
      require(0 <= links_[k] && links_[k] < i, i, "inputs that come before it");
    }
    n.inputs = links_ + first;
    n.input_count = count;
    const bool input = n.kind == RegionKind::kInput;
    require(input == (i == 0) && input == (count == 0), i, "inputs, unless it is node 0");
    require(input || n.kind == RegionKind::kCat || count == (n.kind == RegionKind::kAdd ? 2 : 1), i,
            "its number of inputs");
  }

  void shapes(int64_t i, RegionNode& n, const std::vector<RegionNode>& nodes) const {
    const bool windowed = n.kind == RegionKind::kConv || n.kind == RegionKind::kAveragePool ||
                          n.kind == RegionKind::kMaxPool || n.kind == RegionKind::kWindow;
    const bool conv = n.kind == RegionKind::kConv;
    int64_t channels = 0;
    for (int64_t k = 0; k < n.input_count; ++k) {
      const RegionNode& x = nodes[static_cast<size_t>(n.inputs[k])];
      require(windowed || (x.height == n.height && x.width == n.width), i, "its inputs' size");
      require(conv || n.kind == RegionKind::kCat || x.channels == n.channels, i,
              "its inputs' channels");
      channels += x.channels;
    }
    require(n.kind != RegionKind::kCat || channels == n.channels, i, "its inputs' channels");
    const int64_t groups = conv ? n.groups : 1;
    require(channels % groups == 0 && n.channels % groups == 0, i, "groups that divide channels");
    const bool pool = n.kind == RegionKind::kAveragePool || n.kind == RegionKind::kMaxPool;
    require(!pool || windows_meet(n, nodes[static_cast<size_t>(n.inputs[0])]), i,
            "a window within its input at every pixel");
    if (conv) {
      const int64_t taps = channels / groups * n.kernel_y * n.kernel_x;
      n.weight = tensor(i, "weight", row_[kRegionWeight], n.channels * taps, true);
    } else if (n.kind == RegionKind::kNorm) {
      n.weight = tensor(i, "weight", row_[kRegionWeight], n.channels, false);
    }
    n.bias = tensor(i, "bias", row_[kRegionBias], n.channels, false);
  }

  // Whether the windows of the first and the last pixel see one: then all do, for dilation 1.
  bool windows_meet(const RegionNode& n, const RegionNode& x) const {
    const auto meets = [&](int64_t outputs, int64_t inputs, int64_t kernel, int64_t padding) {
      return n.dilation == 1 && kernel > padding && (outputs - 1) * n.stride - padding < inputs;
    };
    return meets(n.height, x.height, n.kernel_y, n.padding_y) &&
           meets(n.width, x.width, n.kernel_x, n.padding_x);
  }

  const float* tensor(int64_t i, const char* role, int64_t number, int64_t elements,
                      bool needed) const {
    if (number == -1 && !needed) return nullptr;
    STD_TORCH_CHECK(0 <= number && number < static_cast<int64_t>(tensors_.size()), kRegionOp, role,
                    " of node ", i, " must be the number of a tensor, got ", number);
    const Tensor& found = tensors_[static_cast<size_t>(number)];
    STD_TORCH_CHECK(found.numel() == elements && found.scalar_type() == ScalarType::Float &&
                        found.is_contiguous(),
                    kRegionOp, role, " of node ", i, " must be contiguous float32 of ", elements,
                    " elements, got shape ", shape_text(found));
    check_device("region_patterns", role, found, "x", x_);
    return static_cast<const float*>(found.data_ptr());
  }

  const int64_t *table_, *links_, *row_ = nullptr;
  const float* scales_;
  int64_t link_count_;
  const std::vector<Tensor>& tensors_;
  const Tensor& x_;
};

// The nodes of a table; they point into links and tensors.
inline std::vector<RegionNode> read_region_table(const Tensor& nodes, const Tensor& links,
                                                 const Tensor& scales,
                                                 const std::vector<Tensor>& tensors,
                                                 const Tensor& x, int64_t batch) {
  check_region_table(nodes, links, scales, x, batch);
  std::vector<RegionNode> table;
  RegionReader reader(nodes, links, scales, tensors, x);
  for (int64_t i = 0; i < nodes.size(0); ++i) reader.read(i, table);
  const RegionNode& input = table[0];
  STD_TORCH_CHECK(
      x.size(1) == input.channels && x.size(2) == input.height && x.size(3) == input.width,
      kRegionOp, "x must be shaped like node 0, got shape ", shape_text(x));
  return table;
}

}  // namespace supertickets

// The argument contract of region_patterns: a table of nodes, each naming its tensors by number.
#pragma once

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

inline void check_region_table(const Tensor& nodes, const Tensor& links, const Tensor& scales,
                               const Tensor& x, int64_t batch) {
  constexpr const char* kOp = "region_patterns: ";
  STD_TORCH_CHECK(nodes.dim() == 2 && nodes.size(1) == kRegionColumns && nodes.size(0) > 0 &&
                      nodes.scalar_type() == ScalarType::Long && nodes.is_contiguous(),
                  kOp, "nodes must be contiguous int64 [nodes >= 1, ", int64_t{kRegionColumns},
                  "], got shape ", shape_text(nodes));
  STD_TORCH_CHECK(
      links.dim() == 1 && links.scalar_type() == ScalarType::Long && links.is_contiguous(), kOp,
      "links must be contiguous int64 [n], got shape ", shape_text(links));
  STD_TORCH_CHECK(scales.dim() == 1 && scales.size(0) == nodes.size(0) &&
                      scales.scalar_type() == ScalarType::Float && scales.is_contiguous(),
                  kOp, "scales must be contiguous float32 [nodes], got shape ", shape_text(scales));
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && x.is_cpu(), kOp,
                  "x must be float32 [N, C, H, W] on the CPU, got shape ", shape_text(x));
  STD_TORCH_CHECK(batch > 0, kOp, "batch must be positive, got ", batch);
}

}  // namespace supertickets

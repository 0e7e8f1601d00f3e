// The argument contract of ntk_lanes_gram: a table of nodes, each naming its tensors by number.
#pragma once

#include <vector>

#include "tensor.h"

namespace supertickets {

// Columns of the table.
enum LaneColumn : int64_t {
  kLaneKind,
  kLaneFirstInput,  // in `links`
  kLaneInputs,
  kLaneChannels,
  kLaneHeight,
  kLaneWidth,
  kLaneValue,  // tensors, or -1
  kLaneWeight,
  kLaneBias,
  kLaneMean,
  kLaneRstd,
  kLaneIndex,
  kLaneColumn,
  kLaneKernel,
  kLaneStride,
  kLanePaddingY,
  kLanePaddingX,
  kLaneDilation,
  kLaneDepthwise,
  kLaneColumns
};

inline void check_lane_table(const Tensor& nodes, const Tensor& links, const Tensor& scales,
                             int64_t images, int64_t columns) {
  constexpr const char* kOp = "ntk_lanes_gram: ";
  STD_TORCH_CHECK(nodes.dim() == 2 && nodes.size(1) == kLaneColumns && nodes.size(0) > 1 &&
                      nodes.scalar_type() == ScalarType::Long && nodes.is_contiguous(),
                  kOp, "nodes must be contiguous int64 [nodes >= 2, ", int64_t{kLaneColumns},
                  "], got shape ", shape_text(nodes));
  STD_TORCH_CHECK(links.dim() == 1 && links.scalar_type() == ScalarType::Long, kOp,
                  "links must be int64 [n], got shape ", shape_text(links));
  STD_TORCH_CHECK(scales.dim() == 1 && scales.size(0) == nodes.size(0) &&
                      scales.scalar_type() == ScalarType::Float,
                  kOp, "scales must be float32 [nodes], got shape ", shape_text(scales));
  STD_TORCH_CHECK(images > 0, kOp, "images must be positive, got ", images);
  STD_TORCH_CHECK(columns >= 0, kOp, "columns must not be negative, got ", columns);
}

// The tensor that a node names in one column of the table; null for -1, where that is allowed.
inline const void* lane_tensor(const std::vector<Tensor>& tensors, int64_t node, const char* role,
                               int64_t number, int64_t elements, ScalarType type, bool needed) {
  constexpr const char* kOp = "ntk_lanes_gram: ";
  if (number == -1 && !needed) return nullptr;
  STD_TORCH_CHECK(0 <= number && number < static_cast<int64_t>(tensors.size()), kOp, role,
                  " of node ", node, " must be the number of a tensor, got ", number);
  const Tensor& tensor = tensors[static_cast<size_t>(number)];
  STD_TORCH_CHECK(tensor.numel() == elements && tensor.scalar_type() == type &&
                      tensor.is_contiguous() && tensor.data_ptr() != nullptr,
                  kOp, role, " of node ", node, " must be contiguous and hold ", elements,
                  " elements of its type, got shape ", shape_text(tensor));
  return tensor.data_ptr();
}

}  // namespace supertickets

// Element types that the operators store; arithmetic is float32, or float64 for kFloat64.
#pragma once

namespace supertickets {

enum class StorageType { kFloat32, kBFloat16, kFloat16, kFloat64 };
inline constexpr int kStorageTypes = 4;

}  // namespace supertickets

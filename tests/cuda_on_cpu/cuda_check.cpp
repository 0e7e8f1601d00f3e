// Runs the CUDA kernels on the CPU against plain loops; for sanitizers, without Python.
//   cuda_check              every kernel, in three thread orders, blocks on two OS threads
//   cuda_check --plant=X    a fault that must be noticed
#include "cuda_check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string_view>
#include <vector>

#include "cuda/activation_patterns.h"
#include "cuda/nm_mask.h"
#include "cuda/pack_mask.h"
#include "cuda/topk_mask.h"
#include "planted.h"
#include "scheduler.h"

namespace {

using namespace supertickets;
using cuda_check::expect;
using Flags = std::vector<uint8_t>;

bool* bools(Flags& flags) { return reinterpret_cast<bool*>(flags.data()); }

// Few different values, so that there are ties; some are NaN.
std::vector<float> scores_with_ties(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> scores(count);
  for (float& score : scores) {
    const auto draw = static_cast<int>(random() % 41);
    score =
        draw == 40 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(draw - 20) / 8;
  }
  return scores;
}

// Best first: larger magnitudes, then lower indices; NaN last.
std::vector<size_t> ranked(const std::vector<float>& scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto key = [&](size_t i) { return std::isnan(scores[i]) ? -1.0f : std::fabs(scores[i]); };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) > key(b); });
  return order;
}

Flags best(const std::vector<float>& scores, int64_t keep) {
  Flags mask(scores.size());
  const auto order = ranked(scores);
  for (int64_t i = 0; i < keep; ++i) mask[order[static_cast<size_t>(i)]] = 1;
  return mask;
}

struct Call {
  std::vector<char> memory;
  cuda::SelectParams params;
};

Call start(std::vector<cuda::Piece> pieces, const std::vector<int64_t>& keep) {
  int64_t chunks = 0;
  for (cuda::Piece& piece : pieces) {
    piece.first_chunk = chunks;
    chunks += (piece.count + cuda::kChunk - 1) / cuda::kChunk;
  }
  const auto count = static_cast<int64_t>(pieces.size());
  const auto segments = static_cast<int64_t>(keep.size());
  Call call;
  call.memory.resize(static_cast<size_t>(cuda::table_bytes(count, segments, chunks)));
  call.params = {cuda::tables_in(call.memory.data(), count, segments, chunks),
                 StorageType::kFloat32, true};
  cuda::write_tables(call.params.tables, pieces.data(), keep.data(), nullptr);
  return call;
}

void check_topk(size_t count) {
  const auto scores = scores_with_ties(count, count);
  const auto n = static_cast<int64_t>(count);
  for (const int64_t keep : {int64_t{0}, n / 3, n}) {
    Flags mask(count, 7);
    Call call = start({{scores.data(), scores.data(), bools(mask), n, 0, 0}}, {keep});
    cuda::select(call.params, cuda::RankedBy::kAll, nullptr);
    cuda::write_masks(call.params, nullptr);
    expect(mask == best(scores, keep), "topk_mask differs");
    std::fill(mask.begin(), mask.end(), uint8_t{7});
    cuda::topk_rows({scores.data(), bools(mask), 1, n, keep, StorageType::kFloat32, true}, nullptr);
    expect(mask == best(scores, keep), "topk_rows differs");
  }
}

// Two segments; bounded and not.
void check_update(size_t count, int64_t most) {
  const auto scores = scores_with_ties(count, 1);
  const auto n = static_cast<int64_t>(count), keep = n / 3;
  Flags one(count), two(count);
  for (size_t i = 0; i < count; i += 2) one[i] = two[i] = 1;
  const Flags before = one;
  Call call = start({{scores.data(), scores.data(), bools(one), n, 0, 0},
                     {scores.data(), scores.data(), bools(two), n, 0, 1}},
                    {keep, keep});
  cuda::select(call.params, cuda::RankedBy::kAll, nullptr);
  cuda::update_masks(call.params, most, 1, nullptr);
  expect(one == two, "equal segments have different masks");
  expect(std::accumulate(one.begin(), one.end(), int64_t{0}) == keep, "an update keeps too many");
  if (most == cuda::kUnbounded) expect(one == best(scores, keep), "an update differs");
  const Flags target = best(scores, keep);
  for (size_t i = 0; i < count; ++i) {
    expect(one[i] == before[i] || one[i] == target[i], "an update leaves the way to its target");
  }
}

void check_rigl(size_t count) {
  const auto weight = scores_with_ties(count, 2), grad = scores_with_ties(count, 3);
  Flags mask(count);
  for (size_t i = 0; i < count; i += 3) mask[i] = 1;
  const int64_t ones = std::accumulate(mask.begin(), mask.end(), int64_t{0});
  const auto n = static_cast<int64_t>(count);
  Call call = start({{weight.data(), grad.data(), bools(mask), n, 0, 0}}, {0});
  cuda::rigl_update(call.params, n / 10, nullptr);
  expect(std::accumulate(mask.begin(), mask.end(), int64_t{0}) == ones, "RigL changes the number");
}

void check_nm(int64_t m) {
  const auto scores = scores_with_ties(static_cast<size_t>(6 * m), 4);
  Flags mask(scores.size());
  cuda::nm_mask({scores.data(), bools(mask), 2, m, 3, m / 2, StorageType::kFloat32, true}, nullptr);
  expect(std::accumulate(mask.begin(), mask.end(), int64_t{0}) == m / 2 * 6, "nm_mask differs");
}

void check_pack(size_t count) {
  Flags mask(count), back(count, 7);
  for (size_t i = 0; i < count; i += 3) mask[i] = 1;
  std::vector<uint8_t> bits((count + 7) / 8);
  const auto n = static_cast<int64_t>(count);
  cuda::pack_mask(bools(mask), n, bits.data(), nullptr);
  cuda::unpack_mask(bits.data(), n, bools(back), nullptr);
  expect(mask == back, "packed bits do not come back");
}

void check_patterns(int64_t rows, int64_t neurons) {
  const auto values = scores_with_ties(static_cast<size_t>(rows * neurons), 5);
  const int64_t words = (neurons + 5 + 63) / 64;
  std::vector<uint64_t> patterns(static_cast<size_t>(rows * words));
  cuda::pack_signs(
      {values.data(), rows, neurons, patterns.data(), words, 5, StorageType::kFloat32, false},
      nullptr);
  std::set<std::vector<uint64_t>> distinct;
  for (int64_t r = 0; r < rows; ++r) {
    distinct.emplace(patterns.begin() + r * words, patterns.begin() + (r + 1) * words);
  }
  int64_t table = 1, count = -1;
  while (table < 2 * rows) table *= 2;
  std::vector<uint64_t> hashes(static_cast<size_t>(2 * rows));
  std::vector<int64_t> entries(static_cast<size_t>(table));
  cuda::count_patterns({patterns.data(), rows, words, hashes.data(), entries.data(), table, &count},
                       nullptr);
  expect(count == static_cast<int64_t>(distinct.size()), "count_patterns differs");
  std::vector<int32_t> distances(static_cast<size_t>(rows * rows), -1);
  cuda::hamming_gram(patterns.data(), rows, words, distances.data(), nullptr);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < rows; ++j) {
      int32_t sum = 0;
      for (int64_t w = 0; w < words; ++w) {
        sum += __builtin_popcountll(patterns[i * words + w] ^ patterns[j * words + w]);
      }
      expect(distances[i * rows + j] == sum, "hamming_gram differs");
    }
  }
}

void check_all() {
  for (const size_t count : {1, 31, 32, 257, 8192, 8193, 20'000}) {
    check_topk(count);
    check_update(count, cuda::kUnbounded);
    check_update(count, static_cast<int64_t>(count / 20));
    check_rigl(count);
    check_pack(count);
  }
  for (const int64_t m : {1, 4, 64}) check_nm(m);
  check_patterns(1, 1);
  check_patterns(70, 3);
  check_patterns(65, 200);
}

int plant(std::string_view fault) {
  cuda_on_cpu::set_options({});
  if (fault == "missing_barrier") planted::missing_barrier();
  if (fault == "out_of_bounds") planted::out_of_bounds();
  if (fault == "past_shared") planted::past_shared();
  if (fault == "bad_mask") planted::bad_mask();
  if (fault == "early_exit") planted::early_exit();
  std::fprintf(stderr, "cuda_check: the planted fault was not noticed\n");
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  constexpr std::string_view kPlant = "--plant=";
  if (count > 1 && std::string_view(arguments[1]).starts_with(kPlant)) {
    return plant(std::string_view(arguments[1]).substr(kPlant.size()));
  }
#if defined(__SANITIZE_ADDRESS__)
  constexpr int kOsThreads = 1;  // see __shared__
#else
  constexpr int kOsThreads = 2;
#endif
  using cuda_on_cpu::Order;
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    cuda_on_cpu::set_options({order, 7, kOsThreads});
    check_all();
#if defined(__SANITIZE_THREAD__)
    if (order != Order::kRandom) continue;  // minutes each; a race shows in any order
#endif
    cuda_check::check_conv();
    cuda_check::check_jacobian();
    cuda_check::check_regions();
  }
  std::puts("CUDA kernels on the CPU: all equal to plain loops, in three thread orders");
}

#include "masked_conv2d_pattern.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace supertickets {
namespace {

// The taps of both lie alike, so that runs and offsets need no second look.
static_assert(sizeof(Tap<float>) == sizeof(Tap<int32_t>));
static_assert(sizeof(PairTap<float>) == sizeof(PairTap<int32_t>));

constexpr int64_t kWordBytes = sizeof(uint64_t);

int64_t bit_words(int64_t weights) { return weights / 64 + 1; }
int64_t whole_words(int64_t bytes) { return (bytes + kWordBytes - 1) / kWordBytes * kWordBytes; }

void put_run(const Run& run, const std::byte* from, const float* weight, std::byte* to) {
  const auto* pair = reinterpret_cast<const PairTap<int32_t>*>(from);
  auto* pair_to = reinterpret_cast<PairTap<float>*>(to);
  for (int32_t i = 0; i < run.both; ++i) {
    pair_to[i] = {weight[pair[i].first], weight[pair[i].second], pair[i].offset};
  }
  const auto* tap = reinterpret_cast<const Tap<int32_t>*>(pair + run.both);
  auto* tap_to = reinterpret_cast<Tap<float>*>(pair_to + run.both);
  for (int32_t i = 0; i < run.first + run.second; ++i) {
    tap_to[i] = {weight[tap[i].value], tap[i].offset};
  }
}

}  // namespace

bool Pattern::is_sound(int64_t bytes) const {
  return bytes >= static_cast<int64_t>(sizeof(PatternHeader)) && header().bytes == bytes &&
         header().seal == seal_of(header());
}

bool Pattern::is_of(const bool* mask, int64_t weights, const Parallel& parallel) const {
  if (header().weights != weights) return false;
  std::atomic<bool> same{true};
  parallel_for(parallel, bit_words(weights), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t word = begin; word < end; ++word) {
      uint64_t kept;
      std::memcpy(&kept, bits() + word * kWordBytes, sizeof(kept));
      if (mask_word(mask, word, weights) != kept) {
        same = false;
        return;
      }
    }
  });
  return same;
}

const std::byte* Pattern::part(const Work& work, int64_t index, int64_t element_bytes) const {
  if (index >= header().parts) return nullptr;
  const std::byte* at = bits() + bit_words(header().weights) * kWordBytes;
  for (int64_t i = 0; i < index; ++i) at += whole_words(Packed(at).header().bytes);
  return Packed(at).fits(work.correlation, work.tiling, element_bytes, true) ? at : nullptr;
}

std::unique_ptr<std::byte[]> make_pattern(const std::vector<Work>& parts,
                                          const MaskedConv2dParams& params, int64_t weights,
                                          int64_t element_bytes, int64_t* bytes) {
  std::vector<std::unique_ptr<std::byte[]>> packed;
  PatternHeader header{0, sizeof(header), weights, static_cast<int64_t>(parts.size())};
  header.bytes += bit_words(weights) * kWordBytes;
  for (const Work& work : parts) {
    packed.push_back(
        pack_indices(work.correlation, work.tiling, params.mask, element_bytes, params.parallel));
    header.bytes += whole_words(Packed(packed.back().get()).header().bytes);
  }
  header.seal = seal_of(header);
  auto memory = std::make_unique<std::byte[]>(header.bytes);
  std::memcpy(memory.get(), &header, sizeof(header));
  std::byte* to = memory.get() + sizeof(header);
  for (int64_t word = 0; word < bit_words(weights); ++word, to += kWordBytes) {
    const uint64_t kept = mask_word(params.mask, word, weights);
    std::memcpy(to, &kept, sizeof(kept));
  }
  for (const auto& part : packed) {
    const int64_t size = Packed(part.get()).header().bytes;
    std::memcpy(to, part.get(), static_cast<size_t>(size));
    to += whole_words(size);
  }
  *bytes = header.bytes;
  return memory;
}

void put_weights(const std::byte* indices, const float* weight, std::byte* memory,
                 const Parallel& parallel) {
  const Packed from(indices);
  PackedHeader header = from.header();
  header.indices = 0;
  header.seal = seal_of(header);
  std::memcpy(memory, indices, static_cast<size_t>(from.taps() - indices));
  std::memcpy(memory, &header, sizeof(header));
  std::byte* taps = memory + (from.taps() - indices);
  constexpr int64_t kGrain = 32768;  // nonzeros that are worth a thread
  const int64_t runs_each = kGrain * header.runs / std::max<int64_t>(1, header.nonzeros) + 1;
  parallel_for(parallel, header.runs, runs_each, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Run& run = from.runs()[r];
      put_run(run, from.taps() + run.taps, weight, taps + run.taps);
    }
  });
}

}  // namespace supertickets

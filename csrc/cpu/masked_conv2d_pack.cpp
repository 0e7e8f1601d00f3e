// One pass over mask and weight. The mask is turned into bits first, so that pruned weights cost
// nothing but a bit.
#include "masked_conv2d_pack.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

namespace supertickets {
namespace {

constexpr int64_t kWord = 64;

// Bit i is mask[i]; a null mask is all ones. One word of slack, so that any 64 bits can be read.
std::vector<uint64_t> mask_bits(const bool* mask, int64_t count, const Parallel& parallel) {
  std::vector<uint64_t> bits(count / kWord + 2, mask == nullptr ? ~uint64_t{0} : 0);
  if (mask == nullptr) return bits;
  parallel_for(parallel, (count + kWord - 1) / kWord, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t word = begin; word < end; ++word) bits[word] = mask_word(mask, word, count);
  });
  return bits;
}

uint64_t bits_at(const std::vector<uint64_t>& bits, int64_t first, int64_t count) {
  const int64_t word = first / kWord, shift = first % kWord;
  uint64_t value = bits[word] >> shift;
  if (shift != 0) value |= bits[word + 1] << (kWord - shift);
  return count < kWord ? value & ((uint64_t{1} << count) - 1) : value;
}

// Where one plane's weights for one block lie: `count` fields of `length` dense entries, `step`
// apart. Field i begins at tap number `local` + i * length of the block.
struct Fields {
  int64_t first, step, length, count, local;
};

Fields fields_of(const Correlation& c, const Block& block, int64_t plane) {
  const int64_t size = c.kernel_size(), group = plane / c.group_out;
  const int64_t low = std::max(block.channel, group * c.group_in);
  const int64_t high = std::min(block.channel + block.channels, (group + 1) * c.group_in);
  const int64_t channels = std::max<int64_t>(0, high - low), local = (low - block.channel) * size;
  if (c.transposed) {
    const int64_t first = (low * c.group_out + plane % c.group_out) * size;
    return {first, c.group_out * size, size, channels, local};
  }
  const int64_t first = (plane * c.group_in + low - group * c.group_in) * size;
  return {first, 0, channels * size, channels > 0 ? 1 : 0, local};
}

// Everything that does not depend on the run.
struct Source {
  const Correlation& correlation;
  std::vector<uint64_t> bits;
  std::vector<uint64_t> part;    // transposed: which kernel positions take part
  std::vector<int32_t> offsets;  // [block channels][kernel size] into the tile buffer
};

Source source_of(const Correlation& c, const Tiling& tiling, const bool* mask,
                 const Parallel& parallel) {
  const int64_t size = c.kernel_size();
  Source source{c, {}, {}, {}};
  const int64_t rows = c.transposed ? c.groups * c.group_in : c.planes();
  source.bits = mask_bits(mask, rows * c.row(), parallel);
  source.part.assign(size / kWord + 1, 0);
  source.offsets.assign(tiling.block * size, 0);
  for (size_t y = 0; y < c.y.kernel.size(); ++y) {
    for (size_t x = 0; x < c.x.kernel.size(); ++x) {
      const int64_t k = c.y.kernel[y] * c.kernel_width + c.x.kernel[x];
      source.part[k / kWord] |= uint64_t{1} << (k % kWord);
      for (int64_t channel = 0; channel < tiling.block; ++channel) {
        source.offsets[channel * size + k] = static_cast<int32_t>(
            channel * tiling.channel_pitch + tiling.tap[y * c.x.kernel.size() + x]);
      }
    }
  }
  return source;
}

// Calls body(bits of first, bits of second, dense index of bit 0 in first, in second, tap number).
// A plane of -1 has no bits.
template <class Body>
void visit_fields(const Source& s, const Block& block, int64_t first, int64_t second,
                  const Body& body) {
  const Correlation& c = s.correlation;
  if (first >= 0 && second >= 0 && first / c.group_out != second / c.group_out) {
    visit_fields(s, block, first, -1, body);
    visit_fields(s, block, -1, second, body);
    return;
  }
  const Fields f = fields_of(c, block, first >= 0 ? first : second);
  const Fields other = fields_of(c, block, second >= 0 ? second : first);
  // Transposed, neighbouring planes lie side by side: one look gives the bits of both.
  if (c.transposed && first >= 0 && second == first + 1 && 2 * f.length <= kWord) {
    const uint64_t part = s.part[0];
    for (int64_t i = 0; i < f.count; ++i) {
      const int64_t at = f.first + i * f.step;
      const uint64_t bits = bits_at(s.bits, at, 2 * f.length);
      if (bits == 0) continue;
      body(bits & part, bits >> f.length & part, at, at + f.length, f.local + i * f.length);
    }
    return;
  }
  for (int64_t i = 0; i < f.count; ++i) {
    for (int64_t at = 0; at < f.length; at += kWord) {
      const int64_t n = std::min(kWord, f.length - at);
      const int64_t a = f.first + i * f.step + at, b = other.first + i * other.step + at;
      const uint64_t part = c.transposed ? s.part[at / kWord] : ~uint64_t{0};
      const uint64_t bits_a = first >= 0 ? bits_at(s.bits, a, n) & part : 0;
      const uint64_t bits_b = second >= 0 ? bits_at(s.bits, b, n) & part : 0;
      body(bits_a, bits_b, a, b, f.local + i * f.length + at);
    }
  }
}

template <class Body>
void for_each_bit(uint64_t bits, const Body& body) {
  for (; bits != 0; bits &= bits - 1) body(std::countr_zero(bits));
}

struct Layout {
  std::vector<Section> sections;
  std::vector<Block> blocks;
  std::vector<int64_t> section_of_run, block_of_run;
};

Layout lay_out(const Correlation& c, const Tiling& tiling) {
  Layout layout;
  int64_t runs = 0;
  const int64_t group_in = std::max<int64_t>(1, c.group_in);
  const int64_t groups_at_once = std::max<int64_t>(1, tiling.block / group_in);
  for (int64_t group = 0; group < c.groups; group += groups_at_once) {
    const int64_t groups = std::min(groups_at_once, c.groups - group);
    const int64_t end = (group + groups) * c.group_in;
    Section section{group * c.group_out, groups * c.group_out,
                    static_cast<int64_t>(layout.blocks.size()), 0};
    int64_t channel = group * c.group_in;
    do {  // a group without channels still has a block: someone must write its planes
      const int64_t channels = std::min(tiling.block, end - channel);
      layout.blocks.push_back({channel, channels, runs});
      channel += channels;
      runs += section.runs();
      ++section.blocks;
      layout.block_of_run.resize(runs, static_cast<int64_t>(layout.blocks.size()) - 1);
      layout.section_of_run.resize(runs, static_cast<int64_t>(layout.sections.size()));
    } while (channel < end);
    layout.sections.push_back(section);
  }
  return layout;
}

template <class V>
int64_t taps_bytes(const Run& run) {
  return run.both * static_cast<int64_t>(sizeof(PairTap<V>)) +
         (run.first + run.second) * static_cast<int64_t>(sizeof(Tap<V>));
}

// The planes of a run.
struct Planes {
  int64_t first, second;
};
Planes planes_of(const Layout& layout, int64_t run) {
  const Section& section = layout.sections[layout.section_of_run[run]];
  const int64_t pair = run - layout.blocks[layout.block_of_run[run]].run;
  const int64_t first = section.plane + 2 * pair;
  return {first, 2 * pair + 1 < section.planes ? first + 1 : -1};
}

// The taps of one run, gathered in one pass; with room for as many as a block can have, and one
// that is written and not kept.
template <class V>
class Gathered {
 public:
  Gathered(int64_t most, bool shares)
      : shares_(shares ? 1 : 0), both_(most + 1), first_(most + 1), second_(most + 1) {}

  template <class Value>
  Run gather(const Source& source, const Block& block, const Planes& planes, const Value& value) {
    PairTap<V>* both = both_.data();
    Tap<V>* first = first_.data();
    Tap<V>* second = second_.data();
    const int32_t* offsets = source.offsets.data();
    visit_fields(source, block, planes.first, planes.second,
                 [&](uint64_t a, uint64_t b, int64_t at_a, int64_t at_b, int64_t tap) {
                   // Each tap is written to all three lists and kept in one: which one it is
                   // is too random for a branch.
                   for_each_bit(a | b, [&](int i) {
                     const V of_a = value(at_a + i), of_b = value(at_b + i);
                     const int64_t in_a = a >> i & 1, in_b = b >> i & 1;
                     const int32_t offset = offsets[tap + i];
                     *both = {of_a, of_b, offset};
                     *first = {of_a, offset};
                     *second = {of_b, offset};
                     const int64_t shared = in_a & in_b & shares_;
                     both += shared;
                     first += in_a & ~shared;
                     second += in_b & ~shared;
                   });
                 });
    Run run{};
    run.both = static_cast<int32_t>(both - both_.data());
    run.first = static_cast<int32_t>(first - first_.data());
    run.second = static_cast<int32_t>(second - second_.data());
    return run;
  }

  void append_to(const Run& run, std::vector<std::byte>& bytes) const {
    append(both_, run.both, bytes);
    append(first_, run.first, bytes);
    append(second_, run.second, bytes);
  }

 private:
  template <class T>
  static void append(const std::vector<T>& taps, int64_t count, std::vector<std::byte>& bytes) {
    const auto* from = reinterpret_cast<const std::byte*>(taps.data());
    bytes.insert(bytes.end(), from, from + count * static_cast<int64_t>(sizeof(T)));
  }

  int64_t shares_;
  std::vector<PairTap<V>> both_;
  std::vector<Tap<V>> first_, second_;
};

// The i-th run to gather: in the order in which the weights lie in memory. Forward, that is plane
// by plane through all blocks; transposed, it is the order of the runs.
int64_t gathering_order(const Correlation& c, const Layout& layout, int64_t i) {
  if (c.transposed) return i;
  const Section& section = layout.sections[layout.section_of_run[i]];
  const int64_t place = i - layout.blocks[section.block].run;
  const Block& block = layout.blocks[section.block + place % section.blocks];
  return block.run + place / section.blocks;
}

// Runs that one thread gathers at a time.
constexpr int64_t kChunk = 64;

// Where each run's taps and values start; returns the number of all nonzeros.
template <class V>
int64_t number_runs(std::vector<Run>& runs) {
  int64_t taps = 0, nonzeros = 0;
  for (Run& run : runs) {
    run.taps = taps;
    run.values = static_cast<int32_t>(nonzeros);
    taps += taps_bytes<V>(run);
    nonzeros += 2 * int64_t{run.both} + run.first + run.second;
  }
  if (nonzeros > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error("masked_conv2d: weight must have fewer than 2^31 nonzeros");
  }
  return nonzeros;
}

PackedHeader header_of(const Correlation& c, const Tiling& tiling, int64_t element_bytes,
                       bool indices) {
  PackedHeader header{};
  header.indices = indices;
  header.transposed = c.transposed;
  header.planes = c.planes();
  header.channels = c.groups * c.group_in;
  header.row = c.row();
  header.kernel_size = c.kernel_size();
  header.element_bytes = element_bytes;
  header.lanes = tiling.lanes;
  header.tile_rows = tiling.rows;
  header.tile_columns = tiling.columns;
  header.fold = tiling.fold;
  header.shares = tiling.shares;
  header.channel_pitch = tiling.channel_pitch;
  uint64_t hash = 0;
  for (const int32_t offset : tiling.tap) hash = mixed(hash, static_cast<uint64_t>(offset));
  for (const auto* positions : {&c.y.kernel, &c.x.kernel}) {
    for (const int64_t position : *positions) hash = mixed(hash, static_cast<uint64_t>(position));
  }
  header.tap_offsets = static_cast<int64_t>(hash);
  return header;
}

template <class T>
std::byte* put(std::byte* to, const T* from, size_t count) {
  if (count > 0) std::memcpy(to, from, count * sizeof(T));  // nothing may be at null
  return to + count * sizeof(T);
}

template <class V, class Value>
std::unique_ptr<std::byte[]> pack(const Correlation& c, const Tiling& tiling, const bool* mask,
                                  const Value& value, PackedHeader header,
                                  const Parallel& parallel) {
  const Source source = source_of(c, tiling, mask, parallel);
  const Layout layout = lay_out(c, tiling);
  std::vector<Run> runs(layout.block_of_run.size());
  const int64_t count = static_cast<int64_t>(runs.size());
  std::vector<std::vector<std::byte>> chunks((count + kChunk - 1) / kChunk);
  const int64_t pieces = static_cast<int64_t>(chunks.size());
  std::vector<int64_t> place(count);  // of a run's taps in its chunk
  const auto for_each_run = [&](int64_t chunk, const auto& body) {
    for (int64_t i = chunk * kChunk; i < std::min((chunk + 1) * kChunk, count); ++i) {
      body(gathering_order(c, layout, i), chunks[chunk]);
    }
  };
  parallel_for(parallel, pieces, 1, [&](int64_t begin, int64_t end) {
    Gathered<V> gathered(tiling.block * c.kernel_size(), tiling.shares);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      if (chunk > begin) chunks[chunk].reserve(chunks[chunk - 1].size() * 5 / 4);
      for_each_run(chunk, [&](int64_t r, std::vector<std::byte>& bytes) {
        runs[r] = gathered.gather(source, layout.blocks[layout.block_of_run[r]],
                                  planes_of(layout, r), value);
        place[r] = static_cast<int64_t>(bytes.size());
        gathered.append_to(runs[r], bytes);
      });
    }
  });
  header.nonzeros = number_runs<V>(runs);
  header.sections = static_cast<int64_t>(layout.sections.size());
  header.blocks = static_cast<int64_t>(layout.blocks.size());
  header.runs = count;
  const int64_t taps = runs.empty() ? 0 : runs.back().taps + taps_bytes<V>(runs.back());
  header.bytes = static_cast<int64_t>(sizeof(header) + header.sections * sizeof(Section) +
                                      header.blocks * sizeof(Block) + count * sizeof(Run)) +
                 taps;
  header.seal = seal_of(header);
  auto memory = std::make_unique_for_overwrite<std::byte[]>(header.bytes);
  std::byte* to = put(memory.get(), &header, 1);
  to = put(to, layout.sections.data(), layout.sections.size());
  to = put(to, layout.blocks.data(), layout.blocks.size());
  to = put(to, runs.data(), runs.size());
  parallel_for(parallel, pieces, 8, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      for_each_run(chunk, [&](int64_t r, const std::vector<std::byte>& bytes) {
        put(to + runs[r].taps, bytes.data() + place[r],
            static_cast<size_t>(taps_bytes<V>(runs[r])));
      });
    }
  });
  return memory;
}

}  // namespace

uint64_t mask_word(const bool* mask, int64_t word, int64_t count) {
  const int64_t first = word * kWord, n = std::min(kWord, count - first);
  uint64_t value = 0;
  if constexpr (std::endian::native == std::endian::little) {
    if (n == kWord) {  // gathers the low bits of eight bytes with one multiplication
      for (int64_t i = 0; i < 8; ++i) {
        uint64_t bytes;
        std::memcpy(&bytes, mask + first + 8 * i, sizeof(bytes));
        value |= (bytes * 0x0102040810204080u >> 56) << (8 * i);
      }
      return value;
    }
  }
  for (int64_t i = 0; i < n; ++i) value |= uint64_t{mask[first + i]} << i;
  return value;
}

bool Packed::is_sound(int64_t bytes, bool lanes, int64_t max_lines, bool shares) const {
  if (bytes < static_cast<int64_t>(sizeof(PackedHeader))) return false;
  const PackedHeader& h = header();
  const auto within = [](int64_t value, int64_t most) { return value > 0 && value <= most; };
  return h.seal == seal_of(h) && h.bytes == bytes && h.lanes == (lanes ? 1 : 0) &&
         h.shares == (shares ? 1 : 0) && within(h.tile_rows, lanes ? kTileRows : max_lines) &&
         within(h.tile_columns, max_lines) && h.tile_rows * h.tile_columns <= max_lines &&
         within(h.fold, kLine / 2);
}

bool Packed::fits(const Correlation& c, const Tiling& tiling, int64_t element_bytes,
                  bool indices) const {
  PackedHeader mine = header();
  mine.seal = mine.bytes = mine.sections = mine.blocks = mine.runs = mine.nonzeros = 0;
  const PackedHeader expected = header_of(c, tiling, element_bytes, indices);
  return std::memcmp(&mine, &expected, sizeof(mine)) == 0;
}

template <class A>
std::unique_ptr<std::byte[]> pack_weight(const Correlation& c, const Tiling& tiling,
                                         const A* weight, const bool* mask,
                                         const Parallel& parallel) {
  const auto value = [weight](int64_t i) { return weight[i]; };
  return pack<A>(c, tiling, mask, value, header_of(c, tiling, sizeof(A), false), parallel);
}

std::unique_ptr<std::byte[]> pack_indices(const Correlation& c, const Tiling& tiling,
                                          const bool* mask, int64_t element_bytes,
                                          const Parallel& parallel) {
  const auto value = [](int64_t i) { return static_cast<int32_t>(i); };
  return pack<int32_t>(c, tiling, mask, value, header_of(c, tiling, element_bytes, true), parallel);
}

template std::unique_ptr<std::byte[]> pack_weight(const Correlation&, const Tiling&, const float*,
                                                  const bool*, const Parallel&);
template std::unique_ptr<std::byte[]> pack_weight(const Correlation&, const Tiling&, const double*,
                                                  const bool*, const Parallel&);

}  // namespace supertickets

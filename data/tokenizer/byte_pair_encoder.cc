#include "data/tokenizer/byte_pair_encoder.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "data/tokenizer/byte_alphabet.h"
#include "base/utf8.h"

namespace sepia::data {

BytePairEncoder::BytePairEncoder(const TokenizerSpec& spec) {
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    std::string symbol;
    AppendUtf8(SymbolOfByte(static_cast<uint8_t>(byte)), symbol);
    byte_ids_[byte] = spec.vocabulary.Find(symbol);
  }
  table_.assign(std::bit_ceil(2 * spec.merges.size() + 2), {kFree, kNone, kNone});
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const Merge& merge = spec.merges[rank];
    const uint64_t pair = PairOf(merge.left, merge.right);
    // A pair listed twice has its last rank, as in Hugging Face tokenizers.
    table_[Slot(pair)] = {pair, static_cast<int32_t>(rank), merge.result};
  }
}

int BytePairEncoder::num_missing_bytes() const {
  int missing = 0;
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const bool occurs = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
    if (occurs && byte_ids_[byte] == Vocabulary::kNone) ++missing;
  }
  return missing;
}

size_t BytePairEncoder::Slot(uint64_t pair) const {
  const size_t mask = table_.size() - 1;
  const uint64_t mixed = pair * 0x9E3779B97F4A7C15u;
  size_t slot = (mixed ^ (mixed >> 32)) & mask;
  while (table_[slot].pair != kFree && table_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

namespace {

// Heap order: the lowest rank first, then the leftmost.
constexpr auto kLater = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
};

}  // namespace

void BytePairEncoder::PushCandidate(int32_t position, Scratch& scratch) const {
  const Scratch::Symbol& left = scratch.symbols[static_cast<size_t>(position)];
  if (left.next == kNone) return;
  const Scratch::Symbol& right = scratch.symbols[static_cast<size_t>(left.next)];
  const RankedMerge& merge = table_[Slot(PairOf(left.id, right.id))];
  ++scratch.num_candidates;
  if (merge.pair == kFree) return;
  scratch.heap.push_back({merge.rank, position});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), kLater);
}

// Candidates are not removed when a neighbour changes: a popped one counts only if its position
// still holds a pair of its rank.
void BytePairEncoder::MergeAll(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  while (!heap.empty()) {
    const Scratch::Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), kLater);
    heap.pop_back();
    Scratch::Symbol& left = symbols[static_cast<size_t>(best.position)];
    if (left.id == kNone || left.next == kNone) continue;
    Scratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    const RankedMerge& merge = table_[Slot(PairOf(left.id, right.id))];
    if (merge.pair == kFree || merge.rank != best.rank) continue;
    left.id = merge.result;
    right.id = kNone;
    left.next = right.next;
    if (left.next != kNone) symbols[static_cast<size_t>(left.next)].previous = best.position;
    if (left.previous != kNone) PushCandidate(left.previous, scratch);
    PushCandidate(best.position, scratch);
  }
}

void BytePairEncoder::Encode(std::string_view word, Scratch& scratch,
                             std::vector<int32_t>& ids) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  scratch.heap.clear();
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id == Vocabulary::kNone) continue;
    const auto position = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, position - 1, position + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) PushCandidate(static_cast<int32_t>(i), scratch);
  MergeAll(scratch);
  for (int32_t i = 0; i != kNone; i = symbols[static_cast<size_t>(i)].next) {
    ids.push_back(symbols[static_cast<size_t>(i)].id);
  }
}

}  // namespace sepia::data

#include "data/index_maps.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "data/npy_writer.h"

namespace sepia::data {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

// A sum of these over a set of numbers tells sets apart: the finaliser of splitmix64.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void CheckType(const NpyFile& file, const char* descr, const std::vector<int64_t>& shape) {
  if (file.descr() != descr) {
    throw BadData(file.path(), 0,
                  fmt::format("elements of type '{}', expected '{}'", file.descr(), descr));
  }
  if (file.shape() != shape) {
    throw BadData(file.path(), 0,
                  fmt::format("shape ({}), expected ({})", fmt::join(file.shape(), ", "),
                              fmt::join(shape, ", ")),
                  "it belongs to another dataset or other settings: move it away");
  }
}

}  // namespace

IndexMapPlan PlanIndexMaps(const SequenceSizes& sizes, const IndexMapSpec& spec,
                           const std::string& what) {
  CHECK(spec.first_document >= 0 && spec.first_document <= spec.end_document &&
            spec.end_document <= sizes.count(),
        "documents [{}, {}) of {}", spec.first_document, spec.end_document, sizes.count());
  CHECK(spec.seq_length > 0 && spec.num_samples >= 0);
  IndexMapPlan plan;
  for (int64_t i = spec.first_document; i < spec.end_document; ++i) {
    plan.tokens_per_epoch += sizes[i];
  }
  const int64_t tokens = plan.tokens_per_epoch;
  if (tokens == 0) {
    throw UserError(ExitCode::kBadData, fmt::format("{}: documents [{}, {}) hold no tokens", what,
                                                    spec.first_document, spec.end_document));
  }
  if (spec.num_samples > std::numeric_limits<int64_t>::max() / 2 / spec.seq_length) {
    throw UserError(fmt::format("{}: {} samples are too many", what, spec.num_samples));
  }
  // Smallest e >= 1 with (e * tokens - 1) / T >= num_samples.
  plan.num_epochs = std::max<int64_t>(1, (spec.num_samples * spec.seq_length + tokens) / tokens);
  const int64_t documents = spec.end_document - spec.first_document;
  if (plan.num_epochs > kMaxInt32 / documents) {
    throw UserError(
        fmt::format("{}: {} samples of {} tokens need {} epochs of {} documents, more "
                    "than 2^31 entries; train for fewer steps or on more data",
                    what, spec.num_samples, spec.seq_length, plan.num_epochs, documents));
  }
  plan.num_samples = (plan.num_epochs * tokens - 1) / spec.seq_length;
  if (plan.num_samples == 0) {
    throw UserError(ExitCode::kBadData,
                    fmt::format("{}: {} tokens do not fill one sample of {} + 1", what, tokens,
                                spec.seq_length));
  }
  return plan;
}

std::vector<int32_t> BuildDocIndex(const IndexMapSpec& spec, const IndexMapPlan& plan,
                                   NeoxRandom& random) {
  const auto documents = static_cast<size_t>(spec.end_document - spec.first_document);
  std::vector<int32_t> index(static_cast<size_t>(plan.num_epochs) * documents);
  for (size_t i = 0; i < index.size(); ++i) {
    index[i] = static_cast<int32_t>(spec.first_document + static_cast<int64_t>(i % documents));
  }
  random.Shuffle(std::span(index));
  return index;
}

void BuildSampleIndex(const SequenceSizes& sizes, const std::vector<int32_t>& doc_index,
                      const IndexMapSpec& spec, const IndexMapPlan& plan,
                      const std::function<void(SampleStart)>& emit) {
  size_t position = 0;
  int64_t offset = 0;
  emit({0, 0});
  for (int64_t sample = 0; sample < plan.num_samples; ++sample) {
    // T + 1 tokens from here; the last one is also the first of the next sample.
    int64_t remaining = spec.seq_length + 1;
    while (true) {
      CHECK_LT(position, doc_index.size());
      const int64_t available = sizes[doc_index[position]] - offset;
      if (available >= remaining) {
        offset += remaining - 1;
        break;
      }
      remaining -= available;
      ++position;
      offset = 0;
    }
    emit({static_cast<int32_t>(position), static_cast<int32_t>(offset)});
  }
}

template <typename T>
std::vector<T> BuildShuffleIndex(const IndexMapPlan& plan, NeoxRandom& random) {
  std::vector<T> index(static_cast<size_t>(plan.num_samples));
  std::iota(index.begin(), index.end(), T{0});
  random.Shuffle(std::span(index));
  return index;
}
template std::vector<uint32_t> BuildShuffleIndex(const IndexMapPlan&, NeoxRandom&);
template std::vector<int64_t> BuildShuffleIndex(const IndexMapPlan&, NeoxRandom&);

bool ShuffleIndexIsWide(const IndexMapPlan& plan) { return plan.num_samples >= 0xffffffff - 1; }

void WriteIndexMaps(const SequenceSizes& sizes, const IndexMapSpec& spec, const IndexMapPlan& plan,
                    const IndexMapPaths& paths) {
  NeoxRandom random(spec.seed);
  {
    const std::vector<int32_t> doc_index = BuildDocIndex(spec, plan, random);
    NpyWriter docs(paths.doc, "<i4", {static_cast<int64_t>(doc_index.size())});
    docs.Append(std::as_bytes(std::span(doc_index)));
    docs.Finish();

    NpyWriter samples(paths.sample, "<i4", {plan.num_samples + 1, 2});
    BuildSampleIndex(sizes, doc_index, spec, plan, [&samples](SampleStart start) {
      const int32_t row[2] = {start.position, start.offset};
      samples.Append(std::as_bytes(std::span(row)));
    });
    samples.Finish();
  }
  const auto write_shuffle = [&]<typename T>(const char* descr, T) {
    NpyWriter shuffle(paths.shuffle, descr, {plan.num_samples});
    const std::vector<T> index = BuildShuffleIndex<T>(plan, random);
    shuffle.Append(std::as_bytes(std::span(index)));
    shuffle.Finish();
  };
  ShuffleIndexIsWide(plan) ? write_shuffle("<i8", int64_t{}) : write_shuffle("<u4", uint32_t{});
}

IndexMaps::IndexMaps(const IndexMapPaths& paths, const IndexMapSpec& spec, const IndexMapPlan& plan)
    : spec_(spec),
      plan_(plan),
      doc_(paths.doc),
      sample_(paths.sample),
      shuffle_(paths.shuffle),
      wide_(ShuffleIndexIsWide(plan)) {
  const int64_t documents = spec.end_document - spec.first_document;
  CheckType(doc_, "<i4", {plan.num_epochs * documents});
  CheckType(sample_, "<i4", {plan.num_samples + 1, 2});
  CheckType(shuffle_, wide_ ? "<i8" : "<u4", {plan.num_samples});
  CheckDocuments();
  CheckSamples();
  CheckShuffle();
}

void IndexMaps::CheckDocuments() const {
  uint64_t expected = 0;
  for (int64_t d = spec_.first_document; d < spec_.end_document; ++d) {
    expected += Mix(static_cast<uint64_t>(d));
  }
  expected *= static_cast<uint64_t>(plan_.num_epochs);
  uint64_t found = 0;
  for (int64_t i = 0; i < doc_.num_elements(); ++i) {
    const int32_t d = document(i);
    if (d < spec_.first_document || d >= spec_.end_document) {
      throw BadData(doc_.path(), doc_.ByteOffset(i),
                    fmt::format("document {} is outside [{}, {})", d, spec_.first_document,
                                spec_.end_document));
    }
    found += Mix(static_cast<uint64_t>(d));
  }
  if (found != expected) {
    throw BadData(doc_.path(), -1,
                  fmt::format("does not hold every document {} times", plan_.num_epochs),
                  "it is damaged: remove it, or fetch it again");
  }
}

void IndexMaps::CheckSamples() const {
  SampleStart previous{-1, 0};
  for (int64_t i = 0; i <= plan_.num_samples; ++i) {
    const SampleStart s = start(i);
    const bool first_is_origin = i > 0 || s == SampleStart{0, 0};
    const bool in_bounds = s.position >= 0 && s.position < num_positions() && s.offset >= 0;
    const bool rises = s.position > previous.position ||
                       (s.position == previous.position && s.offset > previous.offset);
    if (!first_is_origin || !in_bounds || !rises) {
      throw BadData(sample_.path(), sample_.ByteOffset(2 * i),
                    fmt::format("sample {} starts at document {}, token {}: samples start at "
                                "(0, 0) and rise through {} documents",
                                i, s.position, s.offset, num_positions()),
                    "it is damaged: remove it, or fetch it again");
    }
    previous = s;
  }
}

void IndexMaps::CheckShuffle() const {
  uint64_t difference = 0;
  for (int64_t k = 0; k < plan_.num_samples; ++k) {
    const int64_t sample = shuffled(k);
    if (sample < 0 || sample >= plan_.num_samples) {
      throw BadData(shuffle_.path(), shuffle_.ByteOffset(k),
                    fmt::format("sample {} of {}", sample, plan_.num_samples));
    }
    difference += Mix(static_cast<uint64_t>(sample)) - Mix(static_cast<uint64_t>(k));
  }
  if (difference != 0) {
    throw BadData(shuffle_.path(), -1, "not a permutation of the samples",
                  "it is damaged: remove it, or fetch it again");
  }
}

}  // namespace sepia::data

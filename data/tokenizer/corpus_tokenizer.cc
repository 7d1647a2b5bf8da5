#include "data/tokenizer/corpus_tokenizer.h"

#include "data/tokenizer/ordered_pipeline.h"

namespace sepia::data {
namespace {

// The documents of one chunk, one behind the other.
struct EncodedChunk {
  std::vector<int32_t> ids;
  std::vector<size_t> ends;
  CorpusProgress counts;
};

EncodedChunk EncodeChunk(CorpusChunk& chunk, const CorpusOptions& corpus,
                         const TokenizeOptions& options, Encoder& encoder) {
  EncodedChunk result;
  for (RawDocument& document : chunk.documents) {
    const std::optional<std::string> text = DocumentText(std::move(document), corpus);
    if (!text.has_value()) continue;
    const size_t begin = result.ids.size();
    encoder.Encode(*text, result.ids);
    result.counts.text_bytes += static_cast<int64_t>(text->size());
    if (result.ids.size() == begin) {
      ++result.counts.num_empty;
      if (options.drop_empty || !options.eod_id.has_value()) continue;
    }
    if (options.eod_id.has_value()) result.ids.push_back(*options.eod_id);
    result.ends.push_back(result.ids.size());
  }
  result.counts.file_bytes = chunk.file_bytes;
  return result;
}

}  // namespace

CorpusProgress TokenizeCorpus(const Tokenizer& tokenizer, CorpusReader& reader,
                              const TokenizeOptions& options,
                              const std::function<void(std::span<const int32_t>)>& use,
                              const std::function<void(const CorpusProgress&)>& report) {
  CorpusProgress progress;
  const auto make_worker = [&] {
    auto encoder = std::make_shared<Encoder>(tokenizer);
    return [&reader, &options, encoder](CorpusChunk& chunk) {
      return EncodeChunk(chunk, reader.options(), options, *encoder);
    };
  };
  const auto use_chunk = [&](EncodedChunk& chunk) {
    size_t begin = 0;
    for (const size_t end : chunk.ends) {
      use(std::span(chunk.ids).subspan(begin, end - begin));
      begin = end;
    }
    progress.num_documents += static_cast<int64_t>(chunk.ends.size());
    progress.num_empty += chunk.counts.num_empty;
    progress.num_tokens += static_cast<int64_t>(chunk.ids.size());
    progress.text_bytes += chunk.counts.text_bytes;
    progress.file_bytes = chunk.counts.file_bytes;
    report(progress);
  };
  OrderedPipeline<EncodedChunk>(reader, make_worker, use_chunk).Run(options.num_threads);
  return progress;
}

}  // namespace sepia::data

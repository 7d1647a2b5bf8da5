#include "trainer/data_check.h"

#include <algorithm>
#include <memory>
#include <span>

#include "base/attention_index.h"
#include "base/file.h"
#include "data/indexed_dataset.h"

namespace sepia::trainer {
namespace {

DatasetFacts Inspect(const std::string& role, const std::string& prefix) {
  DatasetFacts facts;
  facts.role = role;
  facts.prefix = prefix;
  const bool has_bin = FileExists(prefix + ".bin");
  if (!FileExists(prefix + ".idx") && !has_bin) {
    facts.missing = true;
    return facts;
  }
  try {
    const data::IndexedDataset dataset(prefix);
    facts.sequences = dataset.num_sequences();
    facts.tokens = dataset.num_tokens();
    facts.dtype = DTypeName(dataset.dtype());
    if (facts.tokens == 0)
      facts.problem = prefix + ".idx: holds no tokens; tokenise the text again";
  } catch (const Error& error) {
    facts.problem = error.what();
  }
  return facts;
}

void CountRow(const std::vector<int32_t>& row, const TrainSettings& settings,
              const model::AttentionPlan& plan, TextSample* sample) {
  const auto length = static_cast<int64_t>(row.size());
  const AttentionIndexes indexes = BuildAttentionIndexes(row, 1, length, plan.specs);
  sample->attention += CountAttentionWork(plan, indexes, 1, length);
  sample->tokens += length;
  const std::vector<int32_t>& separators = settings.model.separator_ids;
  for (const int32_t id : row) {
    sample->largest_id = std::max<int64_t>(sample->largest_id, id);
    sample->separators += std::binary_search(separators.begin(), separators.end(), id) ? 1 : 0;
  }
}

}  // namespace

std::vector<DatasetFacts> InspectDatasets(const DataSettings& data) {
  std::vector<DatasetFacts> facts;
  const auto inspect = [&](const std::string& role,
                           const std::vector<DataSourceSettings>& sources) {
    for (const DataSourceSettings& source : sources) {
      facts.push_back(Inspect(role, source.prefix));
    }
  };
  inspect("source", data.source);
  inspect("train", data.train);
  inspect("valid", data.valid);
  inspect("test", data.test);
  return facts;
}

std::optional<TextSample> SampleText(const TrainSettings& settings, int64_t max_rows) {
  const DataSettings& data = settings.data;
  const std::vector<DataSourceSettings>& sources = data.source.empty() ? data.train : data.source;
  const model::AttentionPlan plan = model::MakeAttentionPlan(settings.model);
  const int64_t length = data.sequence_length;
  TextSample sample;
  for (const DataSourceSettings& source : sources) {
    try {
      const data::IndexedDataset dataset(source.prefix);
      const int64_t rows =
          std::min(std::max<int64_t>(1, max_rows / static_cast<int64_t>(sources.size())),
                   dataset.num_tokens() / length);
      std::vector<int32_t> row(static_cast<size_t>(length));
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t number = i * (dataset.num_tokens() / length) / rows;
        dataset.ReadStream(number * length, row);
        CountRow(row, settings, plan, &sample);
      }
    } catch (const Error&) {
      continue;  // InspectDatasets reports it
    }
  }
  if (sample.tokens == 0) return std::nullopt;
  return sample;
}

}  // namespace sepia::trainer

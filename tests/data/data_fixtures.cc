#include "tests/data/data_fixtures.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/sha256.h"
#include "data/indexed_dataset.h"
#include "data/npy.h"

namespace sepia::testing {
namespace {

int64_t Element(const data::NpyFile& file, int64_t i) {
  const std::string& type = file.descr();
  if (type == "|u1") return file.At<uint8_t>(i);
  if (type == "<i4") return file.At<int32_t>(i);
  if (type == "<u4") return file.At<uint32_t>(i);
  if (type == "<i8") return file.At<int64_t>(i);
  ADD_FAILURE() << file.path() << ": type " << type;
  return 0;
}

}  // namespace

nlohmann::json ReadJson(const std::string& path) { return nlohmann::json::parse(ReadFile(path)); }

std::vector<int64_t> ReadNpy(const std::string& path) {
  const data::NpyFile file(path);
  std::vector<int64_t> values;
  for (int64_t i = 0; i < file.num_elements(); ++i) values.push_back(Element(file, i));
  return values;
}

template <typename T>
std::string DigestAs(std::span<const int64_t> values) {
  std::vector<T> narrow(values.begin(), values.end());
  return Sha256Hex(std::as_bytes(std::span(narrow)));
}
template std::string DigestAs<uint8_t>(std::span<const int64_t>);
template std::string DigestAs<int32_t>(std::span<const int64_t>);
template std::string DigestAs<uint32_t>(std::span<const int64_t>);
template std::string DigestAs<int64_t>(std::span<const int64_t>);

void ExpectArray(const nlohmann::json& reference, std::span<const int64_t> values,
                 const std::string& what) {
  int64_t elements = 1;
  for (const int64_t extent : reference["shape"]) elements *= extent;
  ASSERT_EQ(static_cast<int64_t>(values.size()), elements) << what;
  const std::string type = reference["dtype"];
  const std::string digest = type == "|u1"   ? DigestAs<uint8_t>(values)
                             : type == "<u4" ? DigestAs<uint32_t>(values)
                             : type == "<i8" ? DigestAs<int64_t>(values)
                                             : DigestAs<int32_t>(values);
  EXPECT_EQ(digest, reference["sha256"]) << what;
}

std::string CopyDataset(const std::string& fixtures, const std::string& name,
                        const std::string& folder) {
  for (const char* extension : {".bin", ".idx"}) {
    std::filesystem::copy_file(fixtures + "/datasets/" + name + extension,
                               folder + "/" + name + extension);
  }
  return folder + "/" + name;
}

std::string WriteDataset(const std::string& prefix,
                         const std::vector<std::vector<int32_t>>& documents) {
  data::IndexedDatasetWriter writer(prefix, DType::kUInt16);
  for (const auto& document : documents) writer.AddDocument(document);
  writer.Finish();
  return prefix;
}

void ReplaceFile(const std::string& path, std::string_view bytes) {
  std::filesystem::remove(path);
  File file = File::Create(path);
  file.Write(bytes);
  file.Close();
}

std::vector<std::vector<int32_t>> ToyDocuments() {
  std::vector<std::vector<int32_t>> documents;
  for (const int size : {5, 3, 7, 4, 6, 2, 9, 4}) {
    const auto first = static_cast<int32_t>(100 * (documents.size() + 1));
    documents.emplace_back();
    for (int i = 0; i < size; ++i) documents.back().push_back(first + i);
  }
  return documents;
}

}  // namespace sepia::testing

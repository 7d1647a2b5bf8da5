// Reads the reference values of ../shared/fixtures/data.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace sepia::testing {

nlohmann::json ReadJson(const std::string& path);

// The elements of a .npy file of integers, whatever their width.
std::vector<int64_t> ReadNpy(const std::string& path);

// SHA-256 of the elements narrowed to T, little-endian, as the fixtures give digests of arrays.
template <typename T>
std::string DigestAs(std::span<const int64_t> values);

// "shape", "dtype" and "sha256" of a reference array against values of ours.
void ExpectArray(const nlohmann::json& reference, std::span<const int64_t> values,
                 const std::string& what);

// Copies `name`.bin and .idx of fixtures/data/datasets to `folder`; returns the new prefix.
std::string CopyDataset(const std::string& fixtures, const std::string& name,
                        const std::string& folder);

// A small dataset of documents with the given tokens, u16.
std::string WriteDataset(const std::string& prefix,
                         const std::vector<std::vector<int32_t>>& documents);

// Replaces a file by a new one, without the flush to disk that rewriting it in place would cost.
void ReplaceFile(const std::string& path, std::string_view bytes);

// The dataset that the fixtures call toy: sizes 5 3 7 4 6 2 9 4; document d holds 100(d+1), ...
std::vector<std::vector<int32_t>> ToyDocuments();

}  // namespace sepia::testing

// Constants of the .idx layout, shared by reader and writer (docs/formats/indexed_dataset.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/dtype.h"

namespace sepia::data {

inline constexpr std::array<char, 9> kIdxMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
inline constexpr uint64_t kIdxVersion = 1;

// Byte offsets of the header fields; the sizes start at kIdxHeaderBytes, which is no multiple of 4.
inline constexpr int64_t kIdxVersionOffset = 9;
inline constexpr int64_t kIdxTypeOffset = 17;
inline constexpr int64_t kIdxSequencesOffset = 18;
inline constexpr int64_t kIdxDocumentsOffset = 26;
inline constexpr int64_t kIdxHeaderBytes = 34;

struct IdxType {
  uint8_t code;
  DType dtype;
};

// Codes 6 and 7 are floating-point types, which GPT-NeoX and Megatron-core number differently.
inline constexpr std::array<IdxType, 6> kIdxTypes = {{{1, DType::kUInt8},
                                                      {2, DType::kInt8},
                                                      {3, DType::kInt16},
                                                      {4, DType::kInt32},
                                                      {5, DType::kInt64},
                                                      {8, DType::kUInt16}}};

inline std::optional<DType> IdxDType(uint8_t code) {
  for (const IdxType& type : kIdxTypes) {
    if (type.code == code) return type.dtype;
  }
  return std::nullopt;
}

inline std::optional<uint8_t> IdxTypeCode(DType dtype) {
  for (const IdxType& type : kIdxTypes) {
    if (type.dtype == dtype) return type.code;
  }
  return std::nullopt;
}

}  // namespace sepia::data

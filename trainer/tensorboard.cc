#include "trainer/tensorboard.h"

#include <bit>
#include <exception>
#include <span>
#include <utility>

#include <fmt/core.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "trainer/process.h"

namespace sepia::trainer {
namespace {

constexpr double kFlushSeconds = 10;

template <typename T>
void AppendLittleEndian(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Protobuf wire format: key = field << 3 | type; 0 varint, 1 fixed64, 2 length-delimited, 5
// fixed32.
void AppendVarint(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

void AppendInteger(std::string& out, int field, int64_t value) {
  AppendVarint(out, static_cast<uint64_t>(field) << 3);
  AppendVarint(out, static_cast<uint64_t>(value));
}

void AppendBytes(std::string& out, int field, std::string_view value) {
  AppendVarint(out, static_cast<uint64_t>(field) << 3 | 2);
  AppendVarint(out, value.size());
  out += value;
}

void AppendDouble(std::string& out, int field, double value) {
  AppendVarint(out, static_cast<uint64_t>(field) << 3 | 1);
  AppendLittleEndian(out, value);
}

void AppendFloat(std::string& out, int field, float value) {
  AppendVarint(out, static_cast<uint64_t>(field) << 3 | 5);
  AppendLittleEndian(out, value);
}

uint32_t MaskedCrc(std::string_view data) {
  const uint32_t crc = Crc32c(std::as_bytes(std::span(data)));
  return std::rotr(crc, 15) + 0xa282ead8u;
}

std::string Frame(std::string_view data) {
  std::string record;
  AppendLittleEndian(record, uint64_t{data.size()});
  AppendLittleEndian(record, MaskedCrc(record));
  record += data;
  AppendLittleEndian(record, MaskedCrc(data));
  return record;
}

// Event { wall_time = 1, step = 2, summary = 5 { value = 1 } }
std::string SummaryRecord(double wall_time, int64_t step, std::string_view value) {
  std::string summary, event;
  AppendBytes(summary, 1, value);
  AppendDouble(event, 1, wall_time);
  AppendInteger(event, 2, step);
  AppendBytes(event, 5, summary);
  return Frame(event);
}

}  // namespace

std::string TensorBoardVersionRecord(double wall_time) {
  std::string event;
  AppendDouble(event, 1, wall_time);
  AppendBytes(event, 3, "brain.Event:2");
  return Frame(event);
}

// Value { tag = 1, simple_value = 2 }
std::string TensorBoardScalarRecord(double wall_time, int64_t step, std::string_view tag,
                                    float value) {
  std::string encoded;
  AppendBytes(encoded, 1, tag);
  AppendFloat(encoded, 2, value);
  return SummaryRecord(wall_time, step, encoded);
}

// Value { tag = 1, tensor = 8 { dtype = 1: DT_STRING, shape = 2 { dim = 2 { size = 1 } },
// string_val = 8 }, metadata = 9 { plugin_data = 1 { plugin_name = 1 } } }
std::string TensorBoardTextRecord(double wall_time, int64_t step, std::string_view tag,
                                  std::string_view text) {
  constexpr int kDtString = 7;
  std::string dim, shape, tensor, plugin, metadata, encoded;
  AppendInteger(dim, 1, 1);
  AppendBytes(shape, 2, dim);
  AppendInteger(tensor, 1, kDtString);
  AppendBytes(tensor, 2, shape);
  AppendBytes(tensor, 8, text);
  AppendBytes(plugin, 1, "text");
  AppendBytes(metadata, 1, plugin);
  AppendBytes(encoded, 1, tag);
  AppendBytes(encoded, 8, tensor);
  AppendBytes(encoded, 9, metadata);
  return SummaryRecord(wall_time, step, encoded);
}

EventFile::EventFile(const std::string& directory)
    : file_(File::Create(fmt::format("{}/events.out.tfevents.{:010d}.{}.{}.0", directory,
                                     static_cast<int64_t>(WallSeconds()), HostName(), getpid()))) {
  Add(TensorBoardVersionRecord(WallSeconds()));
  Flush();
}

EventFile::~EventFile() {
  try {
    Flush();
  } catch (const std::exception& error) {
    LogWarn("{}", error.what());
  }
}

void EventFile::AddScalar(int64_t step, std::string_view tag, double value) {
  Add(TensorBoardScalarRecord(WallSeconds(), step, tag, static_cast<float>(value)));
}

void EventFile::AddText(int64_t step, std::string_view tag, std::string_view text) {
  Add(TensorBoardTextRecord(WallSeconds(), step, tag, text));
}

void EventFile::Flush() {
  const std::string bytes = std::exchange(pending_, {});
  since_flush_ = Timer();
  if (!bytes.empty()) file_.Write(bytes);
}

void EventFile::Add(std::string record) {
  pending_ += record;
  if (since_flush_.Seconds() > kFlushSeconds) Flush();
}

}  // namespace sepia::trainer

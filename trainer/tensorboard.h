// TensorBoard event files, written natively. A record is
//   u64 length | u32 masked crc32c of the length | data | u32 masked crc32c of the data
// little-endian; data is a protobuf Event of which only wall_time, step, file_version, simple
// values and texts are used, encoded by hand (six field kinds).
// Source: tensorboard/compat/proto/{event,summary,tensor}.proto, summary/writer/record_writer.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/file.h"

namespace sepia::trainer {

// The framed record of one event. `wall_time` in seconds since 1970.
std::string TensorBoardVersionRecord(double wall_time);
std::string TensorBoardScalarRecord(double wall_time, int64_t step, std::string_view tag,
                                    float value);
std::string TensorBoardTextRecord(double wall_time, int64_t step, std::string_view tag,
                                  std::string_view text);

// events.out.tfevents.<seconds>.<host>.<pid>.0 in a directory. TensorBoard joins the files of one
// directory, so every start of a run opens a new one. Write errors throw UserError(kCannotWrite).
class EventFile {
 public:
  explicit EventFile(const std::string& directory);
  // Writes what is left; errors are lost here, so a run calls Flush() at its end.
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  void AddScalar(int64_t step, std::string_view tag, double value);
  void AddText(int64_t step, std::string_view tag, std::string_view text);
  void Flush();

 private:
  void Add(std::string record);

  File file_;
  std::string pending_;
  Timer since_flush_;
};

}  // namespace sepia::trainer

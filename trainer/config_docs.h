// The config explained: the comments of the .proto files, which the binary carries, beside the
// values of a run or as a reference page.
#pragma once

#include <string>
#include <vector>

#include "trainer/config.h"

namespace sepia::trainer {

struct FieldDoc {
  std::string path;     // "model.attention.window"; repeated messages without index: "data.train"
  std::string type;     // "int32", "FULL | SEP", "list of text", "message"
  std::string value;    // default of the .proto, as in text format; "" without one
  std::string comment;  // as one paragraph
};

// Every field, in the order of the .proto files; a message stands before its fields.
std::vector<FieldDoc> ConfigFieldDocs();

// One block a value: path, value, where it comes from, and with `comments` what it means.
std::string ExplainConfig(const LoadedConfig& config, bool comments);

// The reference page docs/config.md.
std::string ConfigReference();

}  // namespace sepia::trainer

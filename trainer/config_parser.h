// Proto text format into a message, going on after a fault so that all of them are found in one
// pass. Accepts what protobuf's TextFormat accepts for messages without extensions, except octal
// numbers; the tests hold the two against each other. (TextFormat itself stops at the first wrong
// type or enum value.)
#pragma once

#include <string>

#include "trainer/config_faults.h"

namespace google::protobuf {
class Descriptor;
class FieldDescriptor;
class Message;
}  // namespace google::protobuf

namespace sepia::trainer {

// Reads the whole of `text`, source `source` of the places, into `message`. Fields that could be
// read are set even when others are faulty. Bounded work: no recursion beyond the depth of the
// message type.
void ParseConfigText(const std::string& text, int source, google::protobuf::Message* message,
                     ConfigPlaces* places, ConfigFaults* faults);

// What the grammar of the two has in common: one value of `field`, which starts in column
// `first_column` (from 0) of the source.
void ParseConfigValue(const std::string& text, int source, int first_column,
                      google::protobuf::Message* message,
                      const google::protobuf::FieldDescriptor& field, const std::string& path,
                      ConfigPlaces* places, ConfigFaults* faults);
// Removes a repeated field's values and the places of everything inside it.
void ClearRepeated(google::protobuf::Message* message,
                   const google::protobuf::FieldDescriptor& field, const std::string& path,
                   ConfigPlaces* places);
std::string JoinPath(const std::string& path, const std::string& name);
// `unknown field "x" in path; did you mean "y"?`
std::string UnknownField(const std::string& name, const std::string& path,
                         const google::protobuf::Descriptor& descriptor);
// What a value of this field looks like, for messages: "a whole number".
std::string ExpectedValue(const google::protobuf::FieldDescriptor& field);

// In config_override.cc. One override: `path=value`, `path=[a,b]`, `path{...}`. Path components are
// separated by dots; `data.train[0].weight=2` reaches an element of a repeated message. A repeated
// field is replaced as a whole, a message is merged, and strings need no quotes.
void ParseConfigOverride(const std::string& text, int source, google::protobuf::Message* message,
                         ConfigPlaces* places, ConfigFaults* faults);

}  // namespace sepia::trainer

// Unicode normalization form C, with the data that Hugging Face tokenizers has: Unicode 9.
// Marks and compositions that later versions added are left alone there, and so they are here:
// ids must not depend on the version of a library. (utf8proc does the work; only code points that
// were active in Unicode 9 reach it.)
#pragma once

#include <string>
#include <string_view>

namespace sepia::data {

// NFC of well-formed UTF-8: `text` itself when it is already normal, otherwise a view of `buffer`.
// Linear up to the sorting of runs of combining marks.
std::string_view NormalizeNfc(std::string_view text, std::string& buffer);

}  // namespace sepia::data

#include "harness/base/text.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

// Breaks when a path that cannot stand in a record passes for text, or one that can is refused.
TEST(Text, KnowsUtf8) {
  for (const char* good : {"", "plain", "m\xC3\xBCsli", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad :
       {"\xFF", "a\x80", "\xC3", "\xC0\xAF", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\xE2\x82"})
    EXPECT_FALSE(is_utf8(bad)) << printable(bad);
}

// Breaks when a message carries what a terminal would act on.
TEST(Text, PrintsWhatATerminalShows) {
  EXPECT_EQ(printable("a\tb\r\x1b[31m\xFF m\xC3\xBC"), "a\\x09b\\x0d\\x1b[31m\\xff m\xC3\xBC");
}

}  // namespace
}  // namespace tandem

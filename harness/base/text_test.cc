#include "harness/base/text.h"

#include <gtest/gtest.h>

#include <map>

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

// Breaks when a mistyped word is answered with a list to search, or with a word that nobody meant.
TEST(Text, KnowsWhatWasMeant) {
  const std::vector<std::string> known = {"run", "list", "duet", "profile", "--workers", "suites/smoke.json"};
  const std::map<std::string, std::string> meant = {{"runn", "run"},
                                                    {"rnu", "run"},
                                                    {"lsit", "list"},
                                                    {"prof", "profile"},
                                                    {"--wrokers", "--workers"},
                                                    {"--worker", "--workers"},
                                                    {"suites/smok.json", "suites/smoke.json"}};
  for (const auto& [word, answer] : meant) {
    EXPECT_EQ(did_you_mean(word, known), "; did you mean '" + answer + "'?") << word;
  }
  for (const char* word : {"", "x", "xyz", "generate", "--engine"})
    EXPECT_EQ(did_you_mean(word, known), "") << word;
  EXPECT_EQ(did_you_mean(std::string(100000, 'x'), known), "");
}

}  // namespace
}  // namespace tandem

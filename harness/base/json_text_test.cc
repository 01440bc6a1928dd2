#include "harness/base/json_text.h"

#include <gtest/gtest.h>

#include <string>

#include "harness/base/error.h"

namespace tandem {
namespace {

std::string nested(int depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

std::string refusal(const std::string& text) {
  try {
    parse_json(text);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "accepted";
}

// A file of brackets would end the program where a value is printed, which recurses.
TEST(JsonText, DepthIsBounded) {
  EXPECT_EQ(parse_json(nested(64)).dump(), nested(64));
  EXPECT_EQ(refusal(nested(65)), "JSON that nests deeper than 64");
  EXPECT_EQ(refusal(nested(1000000)), "JSON that nests deeper than 64");
}

// A key that is there twice would silently count once, and which one is not said anywhere.
TEST(JsonText, RepeatedKeyIsRefused) {
  EXPECT_EQ(refusal(R"({"batch": 1, "batch": 2})"), R"("batch" is there twice)");
  EXPECT_EQ(refusal(R"([{"batch": 1}, {"batch": 2}])"), "accepted");
}

// A damaged file would come out as an exception that no command turns into its exit code.
TEST(JsonText, OtherTextIsAUsageError) {
  for (const char* text : {"", "{", "[1,]", "{} {}", "nan", "\xff"}) {
    EXPECT_EQ(refusal(text).find("not JSON: "), 0u) << text << ": " << refusal(text);
  }
}

// What a worker prints beside its lines would stop the driver.
TEST(JsonText, TalkIsDiscarded) {
  EXPECT_EQ(parse_json_or_discard(R"({"id": 1})")["id"], 1);
  for (const std::string& text : {std::string("loading ..."), nested(100)}) {
    const nlohmann::json line = parse_json_or_discard(text);
    EXPECT_TRUE(line.is_discarded());
    EXPECT_FALSE(line.is_object());
    EXPECT_FALSE(line.contains("id"));
  }
}

// A message would run over pages, or carry bytes that a record may not hold.
TEST(JsonText, ShownIsShortAscii) {
  EXPECT_EQ(shown({{"a", "\xc3\xa9"}}), R"({"a":"\u00e9"})");
  EXPECT_EQ(shown(std::string("\xff")), R"("\ufffd")");
  EXPECT_EQ(shown(std::string(500, 'x')).size(), 123u);
}

}  // namespace
}  // namespace tandem

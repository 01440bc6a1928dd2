#include "harness/driver/talk/terminal.h"

#include <gtest/gtest.h>

#include "harness/driver/talk/progress.h"

namespace tandem {
namespace {

// Without it a line of progress wraps, and every update leaves one behind.
TEST(Terminal, CutsToTheWidth) {
  EXPECT_EQ(cut_to("abcdef", 6), "abcdef");
  EXPECT_EQ(cut_to("abcdef", 5), "abcd~");
  EXPECT_EQ(cut_to("abcdef", 1), "~");
  EXPECT_EQ(cut_to("abcdef", 0), "");
  EXPECT_EQ(cut_to("m\xC3\xBCsli m\xC3\xBCsli", 6), "m\xC3\xBCsli~") << "characters, not bytes";
}

// Without it help and lists run out of the window, or lose letters where they are broken.
TEST(Terminal, BreaksWhereItMay) {
  EXPECT_EQ(wrapped("one two three", 8, 0), "one two\nthree");
  EXPECT_EQ(wrapped("one two three", 8, 2), "one two\n  three");
  EXPECT_EQ(wrapped("    one two", 7, 4), "    one\n    two") << "not at the blanks in front";
  EXPECT_EQ(wrapped("a-long-word two", 4, 0), "a-long-word\ntwo");
  EXPECT_EQ(wrapped("one\ntwo", 20, 1), "one\n two");
  EXPECT_EQ(wrapped("decoder/model:tiny/batch:1", 14, 2, '/'), "decoder/\n  model:tiny/\n  batch:1");
  EXPECT_EQ(wrapped("", 10, 3), "");
  for (size_t width = 1; width < 40; ++width) {
    std::string text = wrapped("a sentence of words, with a_rather_long_one among them", width, 3), words;
    for (size_t at = 0; at < text.size(); ++at) {
      if (text[at] == '\n') text.replace(at, 4, " ");
    }
    EXPECT_EQ(text, "a sentence of words, with a_rather_long_one among them") << width;
  }
}

// Without it 80 columns of every line of a list say what all lines say.
TEST(Terminal, NamesWithoutWhatTheyShare) {
  const ShortNames few = shorten({"decoder/model:/a/b/batch:1/tp:1", "decoder/model:/a/b/batch:2/tp:1"});
  EXPECT_EQ(few.shared, "decoder/model:/a/b/tp:1");
  EXPECT_EQ(few.names, (std::vector<std::string>{"batch:1", "batch:2"}));
  EXPECT_EQ(shorten({"decoder/batch:1"}).names, std::vector<std::string>{"decoder/batch:1"});
  EXPECT_EQ(shorten({"decoder/batch:1", "decoder/batch:1/kv:fp8"}).names,
            (std::vector<std::string>{"decoder", "kv:fp8"}))
      << "a name is never empty";
}

// Without it a case of microseconds whose process took a tenth of a second to start makes a run of 41 s "26 h left".
TEST(Eta, IsRightWithinTwoAfterTheFirstCase) {
  struct Truth {
    double start_s, check_s, time_s;
  };
  // A machine as fast as predicted, one five times as slow to start, one whose checks are a thousand times as slow, one that
  // takes a tenth of the time.
  for (const Truth truth :
       {Truth{0.05, 1e-5, 0.3}, {0.25, 1e-5, 0.3}, {0.05, 1e-2, 0.3}, {0.05, 1e-5, 0.03}}) {
    constexpr int kCases = 21, kWorkers = 6;
    const auto work = [](int i, double own_s) { return Work{.start_s = i == 0 ? 0.05 : 0, .own_s = own_s}; };
    const auto took = [&](int i, double own_s) { return own_s + (i == 0 ? truth.start_s : 0); };
    constexpr double kCheck = 1e-5, kTime = 0.4;  // predicted
    Eta eta;
    double left = 0;
    for (int i = 0; i < kCases; ++i) {
      eta.add(Eta::Kind::kCheck, work(i, kCheck));
      left += took(i, truth.check_s);
      for (int w = 0; w < kWorkers; ++w) {
        eta.add(Eta::Kind::kTime, work(i, kTime));
        left += took(i, truth.time_s);
      }
    }
    for (int i = 0; i < kCases; ++i) {
      eta.done(Eta::Kind::kCheck, work(i, kCheck), took(i, truth.check_s));
      left -= took(i, truth.check_s);
    }
    for (int i = 0; i < kCases; ++i) {
      eta.done(Eta::Kind::kTime, work(i, kTime), took(i, truth.time_s));
      left -= took(i, truth.time_s);
      EXPECT_LT(eta.left_s(), 2 * left) << i << " of " << truth.start_s << " " << truth.time_s;
      EXPECT_GT(eta.left_s(), left / 2) << i << " of " << truth.start_s << " " << truth.time_s;
    }
  }
}

// Without it cases that failed are waited for.
TEST(Eta, KnowsWhatWasDropped) {
  Eta eta;
  eta.add(Eta::Kind::kTime, {.start_s = 0, .own_s = 10});
  EXPECT_DOUBLE_EQ(eta.left_s(), 10);
  eta.done(Eta::Kind::kTime, {.start_s = 0, .own_s = 2}, 4);
  EXPECT_DOUBLE_EQ(eta.left_s(), 16);
  eta.add(Eta::Kind::kTime, {.start_s = 0, .own_s = -8});
  EXPECT_NEAR(eta.left_s(), 0, 1e-12);
}

}  // namespace
}  // namespace tandem

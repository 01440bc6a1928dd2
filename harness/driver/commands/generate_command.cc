// `tandem generate`: suite_generate --tokens on a checkpoint, and text beside the ids where a tokenizer is at hand.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/process.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/talk/progress.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr double kAllowed_s = 24 * 3600;  // a CPU may take its time over a large checkpoint
constexpr double kTextAllowed_s = 300;

// Reads lines of ids (after a tab, when there is one), prints each as text on one line.
constexpr const char* kDetokenize = R"(
import sys, unicodedata
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
for line in open(sys.argv[2]):
    ids = [int(i) for i in line.rpartition("\t")[2].split()]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    # One line, which a terminal shows and does not act on.
    print("".join(c if unicodedata.category(c) not in ("Cc", "Zl", "Zp", "Cs") else ascii(c)[1:-1] for c in text),
          flush=True)
)";

/// Lines of stdout of a command that must succeed.
std::vector<std::string> lines_of(const std::vector<std::string>& command, double allowed_s,
                                  ProcessEnd& end) {
  std::vector<std::string> lines;
  end = run_process({.command = command,
                     .on_line = [&](const std::string& line) { lines.push_back(line); },
                     .allowed_s = [=] { return allowed_s; }});
  if (end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
  return lines;
}

/// A file of its own for the lines, removed at the end.
class TemporaryLines {
 public:
  explicit TemporaryLines(const std::vector<std::string>& lines) {
    std::string name = (fs::temp_directory_path() / "tandem-ids-XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    if (fd < 0) throw IoError("cannot make a temporary file");
    ::close(fd);
    path_ = name;
    std::ofstream out(path_);
    for (const std::string& line : lines) out << line << '\n';
  }
  ~TemporaryLines() { ::unlink(path_.c_str()); }
  TemporaryLines(const TemporaryLines&) = delete;
  TemporaryLines& operator=(const TemporaryLines&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Text of every line, or nothing where the folder has no tokenizer.json or Python no package tokenizers.
std::vector<std::string> texts_of(const std::string& checkpoint, const std::vector<std::string>& lines) {
  const fs::path tokenizer = fs::path(checkpoint) / "tokenizer.json";
  if (!fs::exists(tokenizer)) return {};
  ProcessEnd end;
  const TemporaryLines file(lines);
  const auto texts =
      lines_of({"python3", "-c", kDetokenize, tokenizer.string(), file.path()}, kTextAllowed_s, end);
  if (end.clean() && texts.size() == lines.size()) return texts;
  const bool absent = end.talk.find("No module named 'tokenizers'") != std::string::npos;
  say(absent ? "generate: ids only: python3 has no package tokenizers"
             : fmt::format("generate: ids only: {}: {}", tokenizer.string(), end.describe()));
  return {};
}

}  // namespace

int generate_command(const GenerateArgs& given) {
  GenerateArgs args = given;
  // A pipe is read once, here: the worker reads its file more than once, and has another stdin.
  std::optional<TemporaryLines> piped;
  std::error_code ec;
  const bool ours = args.input_ids.starts_with("/dev/") || args.input_ids.starts_with("/proc/");
  if (fs::exists(args.input_ids, ec) && !fs::is_directory(args.input_ids, ec) &&
      (ours || !fs::is_regular_file(args.input_ids, ec))) {
    std::ifstream in(args.input_ids);
    std::vector<std::string> read;
    for (std::string line; std::getline(in, line);) read.push_back(line);
    if (read.empty()) throw UsageError(fmt::format("--input-ids: {}: no line in it", args.input_ids));
    args.input_ids = piped.emplace(read).path();
  }
  std::vector<std::string> command = {(args.bin_dir / "suite_generate").string(),
                                      "--tokens",
                                      "--model",
                                      args.checkpoint,
                                      "--input-ids",
                                      args.input_ids};
  command.insert(command.end(), args.passed.begin(), args.passed.end());
  catch_interrupts();
  ProcessEnd end;
  const auto lines = lines_of(command, kAllowed_s, end);
  if (!end.talk.empty()) say(end.talk);
  if (end.how != ProcessEnd::How::kExited) throw Error(fmt::format("{}: {}", command[0], end.describe()));
  if (!end.clean()) return end.code;
  const auto texts = args.ids_only ? std::vector<std::string>{} : texts_of(args.checkpoint, lines);
  for (size_t i = 0; i < lines.size(); ++i) {
    fmt::print("{}{}\n", lines[i], texts.empty() ? "" : "\t" + texts[i]);
  }
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem

#include "kernels/gemm/choices.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/sha256.h"

namespace tandem::kernels {
namespace {

using nlohmann::json;

constexpr const char* kSchema = "tandem-gemm-choices/1";

std::string to_hex(const std::array<uint8_t, 64>& bytes) {
  std::string text;
  for (uint8_t b : bytes) text += fmt::format("{:02x}", b);
  return text;
}

std::array<uint8_t, 64> from_hex(const std::string& text) {
  std::array<uint8_t, 64> bytes{};
  if (text.size() != 2 * bytes.size() || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw UsageError("algo: expected 128 lower-case hex digits");
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}

json choice_json(const GemmChoice& c) {
  return {{"algo", to_hex(c.algo)},
          {"workspace_bytes", c.workspace_bytes},
          {"us", c.us},
          {"candidates", c.candidates},
          {"description", c.description}};
}

GemmChoice parse_choice(const json& j) {
  GemmChoice c;
  c.algo = from_hex(j.at("algo").get<std::string>());
  c.workspace_bytes = j.at("workspace_bytes").get<int64_t>();
  c.us = j.at("us").get<double>();
  c.candidates = j.at("candidates").get<int>();
  c.description = j.at("description").get<std::string>();
  if (c.workspace_bytes < 0) throw UsageError("workspace_bytes: must not be negative");
  return c;
}

GemmPlace parse_place(const json& j) {
  return {j.at("card").get<std::string>(), j.at("cublas").get<int64_t>()};
}

json step_json(const StepChoice& c) {
  json kinds = json::array();
  for (const PhaseKind kind : c.form) kinds.push_back(phase_name(kind));
  return {{"form", std::move(kinds)}, {"us", c.us}, {"own_us", c.own_us}, {"library_us", c.library_us}};
}

StepChoice parse_step(const json& j) {
  StepChoice c{.form = {},
               .us = j.at("us").get<double>(),
               .own_us = j.at("own_us").get<double>(),
               .library_us = j.at("library_us").get<double>()};
  for (const json& kind : j.at("form")) c.form.push_back(parse_phase(kind.get<std::string>()));
  return c;
}

/// Whole content, or nothing when the file does not exist. Throws IoError.
std::optional<std::string> read_file(const std::string& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file || file.bad()) throw IoError(fmt::format("{}: cannot read the file of gemm choices", path));
  return text;
}

[[noreturn]] void throw_errno(const std::string& path, const char* what) {
  throw IoError(fmt::format("{}: {}: {}", path, what, std::strerror(errno)));
}

/// An advisory lock on a file beside the choices, held for the life of the object.
class FileLock {
 public:
  explicit FileLock(const std::string& path) : fd_(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw_errno(path, "cannot open the lock file");
    while (::flock(fd_, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      ::close(fd_);
      throw_errno(path, "cannot lock");
    }
  }
  ~FileLock() { ::close(fd_); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_;
};

void write_durably(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) throw_errno(path, "cannot create");
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t wrote = ::write(fd, text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      const int error = errno;
      ::close(fd);
      errno = error;
      throw_errno(path, "cannot write");
    }
    done += static_cast<size_t>(wrote);
  }
  const bool synced = ::fsync(fd) == 0;
  if (::close(fd) != 0 || !synced) throw_errno(path, "cannot write");
}

std::string missing_text(const GemmPlace& place, const GemmProblem& problem, const std::string& path) {
  return fmt::format("no algorithm chosen for product {} on {} with cuBLAS {} in {}", problem_text(problem),
                     place.card, place.cublas, path.empty() ? "memory" : path);
}

}  // namespace

GemmChoices::GemmChoices(std::string path, Mode mode) : path_(std::move(path)), mode_(mode) {
  try {
    if (const auto text = read_file(path_)) content_ = parse(*text);
  } catch (const std::exception& error) {
    if (mode_ == Mode::kReadOnly) throw IoError(fmt::format("{}: {}", path_, error.what()));
    std::fprintf(stderr, "tandem: %s: ignored and rebuilt: %s\n", path_.c_str(), error.what());
  }
}

GemmChoices::Content GemmChoices::parse(const std::string& text) {
  const json j = parse_json(text);
  if (j.at("schema").get<std::string>() != kSchema)
    throw UsageError(fmt::format("schema: expected {}", kSchema));
  Content content;
  for (const json& place : j.at("places")) {
    auto& choices = content.gemms[parse_place(place)];
    for (const auto& [problem, choice] : place.at("choices").items()) {
      choices[problem_text(parse_problem(problem))] = parse_choice(choice);
    }
  }
  for (const json& place : j.value("steps", json::array())) {
    auto& steps = content.steps[{parse_place(place), place.at("build").get<std::string>()}];
    for (const auto& [step, choice] : place.at("forms").items()) steps[step] = parse_step(choice);
  }
  return content;
}

std::string GemmChoices::dump(const Content& content) {
  json j = {{"schema", kSchema}, {"places", json::array()}};
  for (const auto& [place, choices] : content.gemms) {
    json c = json::object();
    for (const auto& [problem, choice] : choices) c[problem] = choice_json(choice);
    j["places"].push_back({{"card", place.card}, {"cublas", place.cublas}, {"choices", std::move(c)}});
  }
  for (const auto& [place, steps] : content.steps) {
    json forms = json::object();
    for (const auto& [step, choice] : steps) forms[step] = step_json(choice);
    j["steps"].push_back({{"card", place.gemm.card},
                          {"cublas", place.gemm.cublas},
                          {"build", place.build},
                          {"forms", std::move(forms)}});
  }
  return j.dump(1) + "\n";
}

std::optional<GemmChoice> GemmChoices::find(const GemmPlace& place, const GemmProblem& problem) const {
  const std::lock_guard lock(mutex_);
  const auto choices = content_.gemms.find(place);
  if (choices == content_.gemms.end()) return std::nullopt;
  const auto choice = choices->second.find(problem_text(problem));
  if (choice == choices->second.end()) return std::nullopt;
  return choice->second;
}

std::optional<StepChoice> GemmChoices::find_step(const StepPlace& place, const std::string& step) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [there, steps] : content_.steps) {
    if (const auto found = steps.find(step); there == place && found != steps.end()) return found->second;
  }
  for (const auto& [there, steps] : content_.steps) {
    if (!steps.contains(step) || std::exchange(said_, true)) continue;
    const char* other = there.gemm.card != place.gemm.card       ? "card"
                        : there.gemm.cublas != place.gemm.cublas ? "version of cuBLAS"
                                                                 : "build";
    std::fprintf(stderr, "tandem: %s: forms of steps from another %s are ignored\n", path_.c_str(), other);
  }
  return std::nullopt;
}

GemmChoice GemmChoices::at(const GemmPlace& place, const GemmProblem& problem) const {
  if (auto choice = find(place, problem)) return *choice;
  throw UsageError(missing_text(place, problem, path_));
}

void GemmChoices::put(const GemmPlace& place, const GemmProblem& problem, const GemmChoice& choice) {
  if (mode_ == Mode::kReadOnly)
    throw UsageError(missing_text(place, problem, path_) + ", which is read-only");
  check(problem);
  const std::lock_guard lock(mutex_);
  content_.gemms[place][problem_text(problem)] = choice;
}

void GemmChoices::put_step(const StepPlace& place, const std::string& step, const StepChoice& choice) {
  if (mode_ == Mode::kReadOnly)
    throw UsageError(
        fmt::format("the form of step '{}' cannot be kept in {}, which is read-only", step, path_));
  const std::lock_guard lock(mutex_);
  content_.steps[place][step] = choice;
}

void GemmChoices::save() {
  if (path_.empty() || mode_ == Mode::kReadOnly) return;
  const std::lock_guard lock(mutex_);
  const std::filesystem::path parent = std::filesystem::path(path_).parent_path();
  std::error_code ignored;  // the open below reports a folder that could not be made
  if (!parent.empty()) std::filesystem::create_directories(parent, ignored);
  const FileLock file_lock(path_ + ".lock");
  try {
    if (const auto text = read_file(path_)) {
      Content theirs = parse(*text);
      for (auto& [place, choices] : theirs.gemms) content_.gemms[place].merge(choices);  // ours win
      for (auto& [place, steps] : theirs.steps) content_.steps[place].merge(steps);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tandem: %s: replaced: %s\n", path_.c_str(), error.what());
  }
  const std::string temporary = fmt::format("{}.{}.tmp", path_, ::getpid());
  try {
    write_durably(temporary, dump(content_));
    if (::rename(temporary.c_str(), path_.c_str()) != 0) throw_errno(path_, "cannot rename onto");
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

size_t GemmChoices::size() const {
  const std::lock_guard lock(mutex_);
  size_t count = 0;
  for (const auto& [place, choices] : content_.gemms) count += choices.size();
  for (const auto& [place, steps] : content_.steps) count += steps.size();
  return count;
}

std::string GemmChoices::text() const {
  const std::lock_guard lock(mutex_);
  return dump(content_);
}

std::string GemmChoices::sha256() const {
  return sha256_hex(text());
}

}  // namespace tandem::kernels

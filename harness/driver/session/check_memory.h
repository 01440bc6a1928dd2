// Checks that earlier runs made, in the user's cache folder: a case whose binary, card, driver and surroundings are the same is
// not checked again.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "harness/record/line_log.h"
#include "harness/run/validate.h"

namespace tandem {

/// One file a binary and place, checks/<16 hex digits>.jsonl: its first line says of what, each other line is a validation that
/// was ok, with the time it was made. What an engine searched for while it checked (gemm-choices.json) is kept beside it: the
/// timed worker must find what the checked output was computed with.
class CheckMemory {
 public:
  /// `place`: what a check holds for beside binary and case, as JSON. `anew`: what is remembered is forgotten. `folder` is made
  /// when something is kept; empty: nothing is remembered. A file that cannot be read or is of something else is said, once, and
  /// made anew.
  CheckMemory(std::filesystem::path folder, nlohmann::json place, bool anew);
  ~CheckMemory();

  /// With check.remembered_from set; nothing where the case was not checked. Never throws.
  std::optional<Validation> find(const std::string& binary_sha256, const std::string& id);
  /// Keeps one that is ok. Does nothing where the cache cannot be written or another run is writing it.
  void keep(const std::string& binary_sha256, const Validation& v);
  /// The timed worker found another output than the check did: it is not to be found again.
  void forget(const std::string& binary_sha256, const std::string& id);

  /// Puts into a run folder that has none what was searched for with this binary; where it has some, adds what it lacks.
  void hand_out(const std::string& binary_sha256, const std::filesystem::path& run);
  /// Keeps what the run folder has.
  void take_in(const std::string& binary_sha256, const std::filesystem::path& run);

 private:
  struct Book {
    std::filesystem::path path;
    nlohmann::json head;  ///< the first line
    std::map<std::string, Validation> by_id;
    std::unique_ptr<LineLog> log;
    bool writable = true;
  };
  Book& book(const std::string& binary_sha256);
  void read(Book& book);
  void append(Book& book, const nlohmann::json& line);

  std::filesystem::path folder_;
  nlohmann::json place_;
  bool anew_ = false;
  std::map<std::string, Book> books_;
};

/// What a check depends on beside binary and case: card (or CPU), driver, versions of libraries, and the variables that change
/// what they do. `environment`: environment.json of the run.
nlohmann::json check_place(const nlohmann::json& environment, const std::string& machine);

}  // namespace tandem

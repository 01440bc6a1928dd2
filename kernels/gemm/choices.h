// The choice file: which cuBLASLt algorithm a product runs with, and in which form a step runs, so that a
// run can be repeated with the same kernels. Plain C++.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/phase.h"
#include "kernels/gemm/problem.h"

namespace tandem::kernels {

/// One searched algorithm. `algo` is cuBLASLt's opaque cublasLtMatmulAlgo_t, valid for the same library
/// version only.
struct GemmChoice {
  std::array<uint8_t, 64> algo{};
  int64_t workspace_bytes = 0;
  double us = 0;            ///< median when searched, weights cold in L2; 0 when it was not timed
  int candidates = 0;       ///< how many were timed
  std::string description;  ///< algorithm id, tile, stages, split-K: for people

  bool operator==(const GemmChoice&) const = default;
};

/// Where choices hold: another card or another library version never sees them.
struct GemmPlace {
  std::string card;    ///< cudaDeviceProp::name
  int64_t cublas = 0;  ///< cublasLtGetVersion(); of products with 2:4 weights the version of cuSPARSELt
  auto operator<=>(const GemmPlace&) const = default;
};

/// Where the form of a step holds: the own kernels, too, are of one build.
struct StepPlace {
  GemmPlace gemm;
  std::string build;  ///< SHA-256 of the program
  auto operator<=>(const StepPlace&) const = default;
};

/// The form in which a step was found to be fastest.
struct StepChoice {
  std::vector<PhaseKind> form;  ///< kinds of products that go to the library
  double us = 0;                ///< of the step in this form
  double own_us = 0;            ///< with nothing switched
  double library_us = 0;        ///< with all products by the library
  bool operator==(const StepChoice&) const = default;
};

/// Thread-safe. The file is one JSON object; save() merges with what another process wrote meanwhile, under a
/// lock.
class GemmChoices {
 public:
  enum class Mode : uint8_t {
    kSearch,    ///< a missing choice is searched for and added
    kReadOnly,  ///< a missing choice is an error that names the problem
  };

  /// In memory only.
  GemmChoices() = default;
  /// Loads `path` if it exists; without it there are no choices, which is all that cases without a product of the library need.
  /// In kSearch mode an unreadable or corrupt file is ignored with a warning on stderr and rewritten by the next save(); in
  /// kReadOnly mode it throws IoError.
  GemmChoices(std::string path, Mode mode);

  Mode mode() const { return mode_; }
  const std::string& path() const { return path_; }
  std::optional<GemmChoice> find(const GemmPlace& place, const GemmProblem& problem) const;
  /// As find(), but a missing choice throws UsageError naming the problem, the place and the file.
  GemmChoice at(const GemmPlace& place, const GemmProblem& problem) const;
  /// Throws UsageError in kReadOnly mode.
  void put(const GemmPlace& place, const GemmProblem& problem, const GemmChoice& choice);
  /// The form of a step, named by its sizes and kernels. Where the file knows the step from another card, build or library version
  /// only, one line on stderr says so, and there is none.
  std::optional<StepChoice> find_step(const StepPlace& place, const std::string& step) const;
  /// Throws UsageError in kReadOnly mode.
  void put_step(const StepPlace& place, const std::string& step, const StepChoice& choice);
  /// Writes a temporary file and renames it. Does nothing in memory-only and read-only mode. Throws IoError.
  void save();

  /// Algorithms and steps.
  size_t size() const;
  /// The text save() would write: sorted keys, so the same choices give the same bytes.
  std::string text() const;
  /// SHA-256 of text() in hex, for the record.
  std::string sha256() const;

 private:
  struct Content {
    std::map<GemmPlace, std::map<std::string, GemmChoice>> gemms;
    std::map<StepPlace, std::map<std::string, StepChoice>> steps;
  };
  static Content parse(const std::string& text);
  static std::string dump(const Content& content);

  mutable std::mutex mutex_;
  std::string path_;
  Mode mode_ = Mode::kSearch;
  Content content_;
  mutable bool said_ = false;  // that steps of other places are ignored
};

}  // namespace tandem::kernels

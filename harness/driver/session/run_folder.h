// The folder of a run: environment.json, records.jsonl, validation.jsonl, samples/, benchmark.json.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/record/line_log.h"
#include "harness/record/record.h"
#include "harness/run/validate.h"

namespace tandem {

class RunFolder {
 public:
  /// `resume`: continues the run in `path`. Otherwise the folder must be new or empty (or hold nothing but what a start cut
  /// off before its environment was written left). Throws UsageError naming what is in the way, IoError.
  RunFolder(std::filesystem::path path, bool resume);
  ~RunFolder();

  /// Writes environment.json, or on resume compares: the run must have been made from the same sweep, builds and card, or
  /// UsageError says what differs. Then opens records.jsonl and validation.jsonl.
  void open(const nlohmann::json& environment);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path scratch() const { return path_ / ".work"; }
  const nlohmann::json& environment() const { return environment_; }
  const std::vector<Record>& records() const { return records_; }

  /// Is there a record for this worker, or one that says that the case is not worth another worker?
  bool settled(const std::string& id, int worker) const;
  /// Is there a record of this worker?
  bool recorded(const std::string& id, int worker) const { return done_.contains({id, worker}); }
  /// Is there a record of the case that is not ok?
  bool failed(const std::string& id) const { return failed_.contains(id); }
  /// Throws IoError; what was recorded before stays.
  void add(const Record& r);

  /// What validation.jsonl says of a case checked by this binary on this card, or null.
  const Validation* validation(const std::string& id, const std::string& binary_sha256) const;
  void add_validation(const Validation& v, const std::string& binary_sha256);
  /// As if it had never been added, until another is: of a line that is in the file the last one counts.
  void drop_validation(const std::string& id, const std::string& binary_sha256);

  /// benchmark.json from the records so far. Throws IoError.
  void derive_benchmark_json() const;

 private:
  void check_same(const nlohmann::json& environment) const;
  void remember(const Record& r);
  std::string card() const;

  std::filesystem::path path_;
  nlohmann::json environment_;  // null before open; on resume what is on the disk
  std::vector<Record> records_;
  std::set<std::pair<std::string, int>> done_;
  std::set<std::string> failed_;  // cases with a record that is not ok
  std::map<std::pair<std::string, std::string>, Validation> validations_;  // by id and binary
  std::unique_ptr<RecordWriter> writer_;
  std::unique_ptr<LineLog> validation_log_;
};

}  // namespace tandem

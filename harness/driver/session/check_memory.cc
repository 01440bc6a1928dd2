#include "harness/driver/session/check_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/sha256.h"
#include "harness/driver/talk/progress.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr const char* kSchema = "tandem-checks/1";
constexpr const char* kChoices = "gemm-choices.json";
constexpr size_t kMostFiles = 64;  // of binaries: the oldest go

/// Objects of objects: what `into` lacks is taken from `from`.
void add_missing(json& into, const json& from) {
  for (const auto& [key, value] : from.items()) {
    if (!into.contains(key)) {
      into[key] = value;
    } else if (into[key].is_object() && value.is_object()) {
      add_missing(into[key], value);
    }
  }
}

json read_object(const fs::path& path) {
  std::error_code ec;
  if (!fs::exists(path, ec)) return {};
  try {
    json j = parse_json(read_file(path));
    return j.is_object() ? j : json();
  } catch (const Error&) {
    return {};  // an engine searches again
  }
}

void remove_oldest(const fs::path& folder) {
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(folder, ec)) {
    if (entry.path().extension() == ".jsonl") files.emplace_back(entry.last_write_time(ec), entry.path());
  }
  std::sort(files.begin(), files.end());
  for (size_t i = 0; i + kMostFiles < files.size(); ++i) {
    fs::remove(files[i].second, ec);
    fs::remove(files[i].second.replace_extension(".choices"), ec);
  }
}

}  // namespace

CheckMemory::CheckMemory(fs::path folder, json place, bool anew)
    : folder_(std::move(folder)), place_(std::move(place)), anew_(anew) {}
CheckMemory::~CheckMemory() = default;

CheckMemory::Book& CheckMemory::book(const std::string& binary_sha256) {
  const auto [at, is_new] = books_.try_emplace(binary_sha256);
  Book& book = at->second;
  if (!is_new) return book;
  book.writable = !folder_.empty();
  if (folder_.empty()) return book;
  book.head = {{"schema", kSchema}, {"binary", binary_sha256}, {"place", place_}};
  book.path = folder_ / fmt::format("{:.16}.jsonl", sha256_hex(book.head.dump()));
  read(book);
  return book;
}

void CheckMemory::read(Book& book) {
  std::error_code ec;
  const auto start_anew = [&] {
    book.by_id.clear();
    fs::remove(book.path, ec);
    fs::remove(fs::path(book.path).replace_extension(".choices"), ec);
  };
  if (anew_) return start_anew();
  if (!fs::exists(book.path, ec)) return;
  try {
    for_each_line(book.path.string(), [&](int number, const std::string& text) {
      const json line = parse_json_or_discard(text);
      if (number == 1) {
        if (!line.is_object() || !(line == book.head))
          throw UsageError("its first line is of something else");
        return;
      }
      if (!line.is_object()) throw UsageError(fmt::format("line {} is no JSON object", number));
      if (line.contains("forgotten")) {
        book.by_id.erase(line.at("forgotten").get<std::string>());
        return;
      }
      Validation v = validation_from_json(line.at("validation"));
      if (v.status != Status::kOk || !v.check) throw UsageError(fmt::format("line {} is no check", number));
      v.check->remembered_from = line.at("made").get<std::string>();
      book.by_id.insert_or_assign(v.id, std::move(v));
    });
  } catch (const std::exception& e) {
    say(fmt::format("the checks remembered in {} cannot be used and are made anew: {}", book.path.string(),
                    e.what()));
    start_anew();
  }
}

void CheckMemory::append(Book& book, const json& line) {
  if (!book.writable) return;
  try {
    if (!book.log) {
      fs::create_directories(folder_);
      remove_oldest(folder_);
      const bool begun = fs::exists(book.path) && fs::file_size(book.path) > 0;
      book.log = std::make_unique<LineLog>(book.path.string());
      if (!begun) book.log->append(book.head.dump());
    }
    book.log->append(line.dump(-1, ' ', false, json::error_handler_t::replace));
  } catch (const std::exception&) {
    book.writable = false;  // a full disk, another run: the next one checks again
  }
}

std::optional<Validation> CheckMemory::find(const std::string& binary_sha256, const std::string& id) {
  const Book& found = book(binary_sha256);
  const auto at = found.by_id.find(id);
  return at == found.by_id.end() ? std::nullopt : std::optional(at->second);
}

void CheckMemory::keep(const std::string& binary_sha256, const Validation& v) {
  if (v.status != Status::kOk || !v.check) return;
  append(book(binary_sha256), {{"made", utc_now()}, {"validation", validation_to_json(v)}});
}

void CheckMemory::forget(const std::string& binary_sha256, const std::string& id) {
  Book& b = book(binary_sha256);
  b.by_id.erase(id);
  append(b, {{"forgotten", id}});
}

void CheckMemory::hand_out(const std::string& binary_sha256, const fs::path& run) {
  const Book& b = book(binary_sha256);
  if (b.path.empty()) return;
  const json kept = read_object(fs::path(b.path).replace_extension(".choices"));
  if (kept.is_null()) return;
  json merged = read_object(run / kChoices);
  if (merged.is_null()) merged = json::object();
  const json before = merged;
  add_missing(merged, kept);
  if (merged != before) write_file_atomic(run / kChoices, merged.dump(1) + "\n");
}

void CheckMemory::take_in(const std::string& binary_sha256, const fs::path& run) {
  const Book& b = book(binary_sha256);
  if (!b.writable || !b.log) return;
  const json has = read_object(run / kChoices);
  if (has.is_null()) return;
  try {
    write_file_atomic(fs::path(b.path).replace_extension(".choices"), has.dump(1) + "\n");
  } catch (const Error&) {
    // As with a check that cannot be kept.
  }
}

json check_place(const json& environment, const std::string& machine) {
  json variables = environment.value("env", json::object());
  // Of one process, or of how long is measured.
  for (const char* name : {"TANDEM_DRIVER_PID", "TANDEM_SAMPLE_SECONDS", "TANDEM_RENDEZVOUS", "TANDEM_NSYS"})
    variables.erase(name);
  return {
      {"machine", machine}, {"software", environment.value("software", json())}, {"variables", variables}};
}

}  // namespace tandem

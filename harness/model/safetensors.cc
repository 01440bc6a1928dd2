#include "harness/model/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/json_text.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little);  // tensors are used as they lie in the file

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr int64_t kMaxElements = int64_t{1} << 48;
constexpr size_t kMaxDimensions = 16;

struct StoredType {
  std::string_view name;
  int64_t bytes;
};
constexpr StoredType kStoredTypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                                       {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                                       {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8}};

[[noreturn]] void refuse(std::string_view file, const std::string& why) {
  throw UsageError(fmt::format("{}: {}", file, why));
}

nlohmann::json parse_header(std::string_view file, std::string_view text) {
  nlohmann::json header;
  try {
    header = parse_json(text);
  } catch (const UsageError& e) {
    refuse(file, fmt::format("header: {}", e.what()));
  }
  if (!header.is_object()) refuse(file, "header: not a JSON object");
  return header;
}

bool is_count(const nlohmann::json& j) {
  return j.is_number_unsigned() && j.get<uint64_t>() <= static_cast<uint64_t>(kMaxElements);
}

struct Entry {
  StoredTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

Entry parse_entry(std::string_view file, const std::string& name, const nlohmann::json& j) {
  const auto fail = [&](const std::string& why) {
    refuse(file, fmt::format("tensor {}: {}", shown(name), why));
  };
  if (!j.is_object()) fail("its entry is not an object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!j.contains(key)) fail(fmt::format("its entry has no {}", key));
  }
  Entry entry;
  entry.tensor.file = file;
  if (!j["dtype"].is_string()) fail("dtype is not a string");
  entry.tensor.dtype = j["dtype"].get<std::string>();
  const auto type = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                 [&](const StoredType& t) { return t.name == entry.tensor.dtype; });
  if (type == std::end(kStoredTypes)) fail(fmt::format("unknown dtype {}", shown(entry.tensor.dtype)));

  if (!j["shape"].is_array() || j["shape"].size() > kMaxDimensions) {
    fail(fmt::format("shape is not a list of at most {} sizes", kMaxDimensions));
  }
  int64_t elements = 1;
  for (const nlohmann::json& size : j["shape"]) {
    if (!is_count(size)) fail(fmt::format("shape: {} is not a size", shown(size)));
    const auto n = size.get<int64_t>();
    if (n != 0 && elements > kMaxElements / n) fail("shape has more elements than any file");
    elements *= n;
    entry.tensor.shape.push_back(n);
  }

  const nlohmann::json& offsets = j["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    fail("data_offsets is not [begin, end]");
  }
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  if (entry.begin > entry.end)
    fail(fmt::format("data_offsets [{}, {}] run backwards", entry.begin, entry.end));
  const auto needed = static_cast<uint64_t>(elements * type->bytes);
  if (entry.end - entry.begin != needed) {
    fail(fmt::format("{} of shape {} needs {} bytes, data_offsets [{}, {}] hold {}", entry.tensor.dtype,
                     shape_text(entry.tensor.shape), needed, entry.begin, entry.end,
                     entry.end - entry.begin));
  }
  return entry;
}

}  // namespace

int64_t StoredTensor::size() const {
  int64_t elements = 1;
  for (const int64_t n : shape) elements *= n;
  return elements;
}

std::optional<DType> StoredTensor::float_type() const {
  if (dtype == "F32") return DType::kF32;
  if (dtype == "F16") return DType::kF16;
  if (dtype == "BF16") return DType::kBF16;
  return std::nullopt;
}

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::map<std::string, StoredTensor> parse_safetensors(std::string_view file,
                                                      std::span<const std::byte> content) {
  if (content.size() < kLengthBytes) {
    refuse(file, fmt::format("cut off: {} bytes do not hold the header's length", content.size()));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, content.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > content.size() - kLengthBytes) {
    refuse(file, fmt::format("the header's length says {} bytes, the file has {} after it; cut off, or not "
                             "safetensors",
                             header_bytes, content.size() - kLengthBytes));
  }
  const auto* text = reinterpret_cast<const char*>(content.data() + kLengthBytes);
  const nlohmann::json header = parse_header(file, {text, header_bytes});
  const std::span<const std::byte> data = content.subspan(kLengthBytes + header_bytes);

  std::vector<std::pair<std::string, Entry>> entries;
  for (const auto& [name, j] : header.items()) {
    if (name != "__metadata__") entries.emplace_back(name, parse_entry(file, name, j));
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.begin, a.second.end) < std::pair(b.second.begin, b.second.end);
  });
  uint64_t at = 0;
  for (const auto& [name, e] : entries) {
    if (e.begin != at) {
      refuse(file, fmt::format("tensor {}: its bytes start at {}, {} the tensor before, which ends at {}",
                               shown(name), e.begin, e.begin < at ? "inside" : "with a gap after", at));
    }
    at = e.end;
    if (at > data.size()) {
      refuse(file, fmt::format("tensor {}: its bytes end at {}, the file's at {}; cut off", shown(name), at,
                               data.size()));
    }
  }
  if (at != data.size()) {
    refuse(file, fmt::format("{} bytes follow the last tensor", data.size() - at));
  }

  std::map<std::string, StoredTensor> tensors;
  for (auto& [name, e] : entries) {
    e.tensor.bytes = data.subspan(e.begin, e.end - e.begin);
    tensors.emplace(name, std::move(e.tensor));
  }
  return tensors;
}

SafetensorsFile::SafetensorsFile(const std::string& path) {
  const auto fail = [&](const char* what) {
    throw IoError(fmt::format("{}: cannot {}: {}", path, what, std::strerror(errno)));
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open");
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  if (!known || !S_ISREG(info.st_mode)) {
    const std::string why = known ? "it is not a regular file" : std::strerror(errno);
    ::close(fd);
    throw IoError(fmt::format("{}: cannot read: {}", path, why));
  }
  bytes_ = static_cast<size_t>(info.st_size);
  if (bytes_ > 0) {
    data_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    ::close(fd);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      errno = error;
      fail("map");
    }
  } else {
    ::close(fd);
  }
  try {
    tensors_ = parse_safetensors(path, {static_cast<const std::byte*>(data_), bytes_});
  } catch (...) {
    if (data_ != nullptr) ::munmap(data_, bytes_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace tandem

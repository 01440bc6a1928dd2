// One file in the safetensors format (https://github.com/huggingface/safetensors, "Format"): eight bytes of header
// length, a JSON header, then the tensors' bytes back to back, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/tensor.h"

namespace tandem {

/// A tensor inside a mapped file.
struct StoredTensor {
  std::string file;            ///< path, for messages
  std::string dtype;           ///< as the header spells it: "F32", "BF16", "I64"
  std::vector<int64_t> shape;  ///< [] is one number
  std::span<const std::byte> bytes;

  int64_t size() const;
  /// F32, F16 or BF16; nothing for every other type.
  std::optional<DType> float_type() const;
};

/// "[2, 3]".
std::string shape_text(std::span<const int64_t> shape);

/// Reads the header of a whole file in memory. `file` is its name, for messages and StoredTensor::file. Throws
/// UsageError naming file and tensor for a file that is cut off, a header that is too long, no JSON or has a key
/// twice, an unknown dtype, a shape that does not fit its bytes, and bytes that overlap, leave a gap or lie outside.
std::map<std::string, StoredTensor> parse_safetensors(std::string_view file,
                                                      std::span<const std::byte> content);

/// A file mapped read-only; its tensors point into the mapping. Whoever cuts the file while it is mapped kills this
/// process, as with any mapping.
class SafetensorsFile {
 public:
  /// Throws IoError when it cannot be opened or mapped, and UsageError as parse_safetensors does.
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace tandem

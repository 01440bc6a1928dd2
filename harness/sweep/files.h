// Small file helpers shared by sweep, record and driver.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tandem {

/// Throws IoError.
std::string read_file(const std::filesystem::path& path);
/// Writes beside the target, fsyncs, renames: a reader sees the old file or the new one. Throws IoError
/// naming the path.
void write_file_atomic(const std::filesystem::path& path, std::string_view content);
/// $XDG_CACHE_HOME/tandem or ~/.cache/tandem, not created. Empty when neither variable is set.
std::filesystem::path user_cache_dir();

/// SHA-256 of a file, or of a checkpoint folder: of the names and hashes of its config.json,
/// generation_config.json, index and *.safetensors. Files of 16 MiB and more are remembered in the user's cache folder by path, size and
/// modification time. Throws IoError.
std::string content_sha256(const std::filesystem::path& path);

}  // namespace tandem

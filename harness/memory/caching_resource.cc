#include "harness/memory/caching_resource.h"

#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "harness/base/error.h"
#include "harness/base/host_device.h"

namespace tandem {

CachingResource::~CachingResource() {
  for (const auto& [address, bytes] : segments_) upstream_.deallocate(address, bytes);
}

void CachingResource::add_free(Blocks::iterator block) {
  block->second.free = true;
  free_.insert({block->second.bytes, block->first});
}

void CachingResource::release_free(Blocks::iterator block) {
  free_.erase({block->second.bytes, block->first});
  block->second.free = false;
}

CachingResource::Blocks::iterator CachingResource::reserve(int64_t bytes) {
  const int64_t segment = bytes < kSegmentBytes ? kSegmentBytes : bytes;
  char* address = nullptr;
  try {
    address = static_cast<char*>(upstream_.allocate(segment));
  } catch (const OutOfMemory&) {
    trim();
    address = static_cast<char*>(upstream_.allocate(segment));
  }
  counters_.reserved(segment);
  segments_[address] = segment;
  const auto block = blocks_.insert({address, {.bytes = segment, .segment = address, .free = false}}).first;
  add_free(block);
  return block;
}

void* CachingResource::allocate(int64_t bytes) {
  if (bytes <= 0) throw OutOfMemory(bytes, "Level-2 cache");
  const int64_t need = round_up(bytes, kMemoryAlignment);
  const auto fit = free_.lower_bound({need, nullptr});
  auto block = fit != free_.end() ? blocks_.find(fit->second) : reserve(need);
  release_free(block);
  if (block->second.bytes > need) {
    const auto rest =
        blocks_
            .insert({block->first + need,
                     {.bytes = block->second.bytes - need, .segment = block->second.segment, .free = false}})
            .first;
    block->second.bytes = need;
    add_free(rest);
  }
  counters_.allocated(need);
  return block->first;
}

void CachingResource::deallocate(void* address, int64_t) noexcept {
  auto block = blocks_.find(static_cast<char*>(address));
  if (block == blocks_.end() || block->second.free) {
    // Going on would hand one block out twice; there is no caller to throw to.
    std::fprintf(stderr, "tandem: Level-2 cache: block %p was not handed out, or was returned before\n",
                 address);
    std::abort();
  }
  counters_.deallocated(block->second.bytes);
  auto merge = [this](Blocks::iterator into, Blocks::iterator from) {
    into->second.bytes += from->second.bytes;
    blocks_.erase(from);
  };
  const auto next = std::next(block);
  if (next != blocks_.end() && next->second.free && next->second.segment == block->second.segment) {
    release_free(next);
    merge(block, next);
  }
  if (block != blocks_.begin()) {
    const auto previous = std::prev(block);
    if (previous->second.free && previous->second.segment == block->second.segment) {
      release_free(previous);
      merge(previous, block);
      block = previous;
    }
  }
  add_free(block);
}

void CachingResource::trim() noexcept {
  trim_but(nullptr);
}

void CachingResource::keep(int64_t bytes) {
  if (kept_ != nullptr && segments_.at(kept_) < bytes) kept_ = nullptr;
  trim_but(kept_);
  if (kept_ != nullptr || bytes <= 0) return;
  try {
    kept_ = reserve(round_up(bytes, kSegmentBytes))->first;
  } catch (const OutOfMemory&) {  // cases that need less still find room
  }
}

void CachingResource::trim_but(const char* kept) noexcept {
  for (auto it = segments_.begin(); it != segments_.end();) {
    const auto block = blocks_.find(it->first);
    if (it->first != kept && block->second.free && block->second.bytes == it->second) {
      if (it->first == kept_) kept_ = nullptr;
      release_free(block);
      blocks_.erase(block);
      upstream_.deallocate(it->first, it->second);
      counters_.reserved(-it->second);
      it = segments_.erase(it);
    } else {
      ++it;
    }
  }
}

double CachingResource::fragmentation() const {
  if (free_.empty()) return 0;
  int64_t total = 0;
  for (const auto& [bytes, address] : free_) total += bytes;
  return 1.0 - static_cast<double>(free_.rbegin()->first) / static_cast<double>(total);
}

}  // namespace tandem

// PTX of memory that several devices share: loads and stores at the scope of the system (PTX ISA, "memory consistency model").
#pragma once

#include <cstdint>

namespace tandem::kernels {

/// Two words of eight bytes. Each is written, and seen, whole: a reader that finds a mark in a word finds its other half too.
struct alignas(16) WordPair {
  uint64_t first;
  uint64_t second;
};
__device__ inline void store_words_system(void* p, const WordPair& v) {
  asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(p), "l"(v.first), "l"(v.second)
               : "memory");
}
__device__ inline WordPair load_words_system(const void* p) {
  WordPair v;
  asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(v.first), "=l"(v.second)
               : "l"(p)
               : "memory");
  return v;
}
/// One such word.
__device__ inline void store_word_system(void* p, uint64_t v) {
  asm volatile("st.relaxed.sys.global.b64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
__device__ inline uint64_t load_word_system(const void* p) {
  uint64_t v;
  asm volatile("ld.relaxed.sys.global.b64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}

/// After everything that this thread has seen written, by itself or before a barrier of its block.
__device__ inline void store_release_system(uint32_t* p, uint32_t v) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ inline uint32_t load_acquire_system(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}

}  // namespace tandem::kernels

# Flags and helper functions shared by every folder.

add_library(tandem_flags INTERFACE)
target_include_directories(tandem_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(tandem_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>
  # CMake 3.25 does not know nvcc 13's C++20 mode; --expt-relaxed-constexpr shares constexpr helpers with the host.
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -lineinfo -Xcompiler=-Wall,-Wextra>)
target_link_libraries(tandem_flags INTERFACE fmt::fmt nlohmann_json::nlohmann_json Threads::Threads OpenMP::OpenMP_CXX)
if(TANDEM_WERROR)
  target_compile_options(tandem_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(TANDEM_COVERAGE)
  # Lines need neither debug information, a quarter of the compiler's time, nor exact counts: with atomic ones tests take two to
  # four times longer.
  target_compile_options(tandem_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:--coverage -Og -g0 -fprofile-update=single>)
  target_link_options(tandem_flags INTERFACE --coverage)
endif()
if(TANDEM_SANITIZE)
  target_compile_options(tandem_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TANDEM_SANITIZE} -fno-omit-frame-pointer -g>)
  target_link_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE})
endif()

# Code that waits for files, processes, people and the engine: a release takes -O1 for it. Its objects are
# built in 60 to 80 % of the time.
set(TANDEM_COLD_FLAGS $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:-O1>)

# tandem_library(NAME SOURCES ... DEPS ... COLD): a static library of one folder. COLD: nothing in it is in a hurry.
function(tandem_library name)
  cmake_parse_arguments(ARG "COLD" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC tandem_flags ${ARG_DEPS})
  if(ARG_COLD)
    target_compile_options(${name} PRIVATE ${TANDEM_COLD_FLAGS})
  endif()
endfunction()

# Tests run beside each other, and many compute small products on the host: threads that spin at the end of each loop would
# take the cores from each other.
set(TANDEM_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
set(TANDEM_GPU_TEST_ENVIRONMENT OMP_NUM_THREADS=2 ${TANDEM_TEST_ENVIRONMENT})

# tandem_test(NAME SOURCES ... DEPS ... LABELS ... ENVIRONMENT ... ALONE SHARDS n): a GoogleTest binary and its ctest entry.
# ALONE: it measures time or free memory of a card, so that no other test may run beside it.
# SHARDS: n entries that share the cases of a long binary.
function(tandem_test name)
  if(NOT TANDEM_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "ALONE" "SHARDS" "SOURCES;DEPS;LABELS;ENVIRONMENT" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tandem_flags ${ARG_DEPS} GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${TANDEM_COLD_FLAGS})
  if("gpu" IN_LIST ARG_LABELS AND NOT ARG_ALONE)
    list(APPEND ARG_ENVIRONMENT ${TANDEM_GPU_TEST_ENVIRONMENT})
  elseif(NOT ARG_ALONE)
    list(APPEND ARG_ENVIRONMENT ${TANDEM_TEST_ENVIRONMENT})
  endif()
  tandem_test_entries(${name} ${name} SHARDS "${ARG_SHARDS}" LABELS "${ARG_LABELS}" ENVIRONMENT ${ARG_ENVIRONMENT})
  if(ARG_ALONE)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

# tandem_test_entries(NAME COMMAND... SHARDS n LABELS ... ENVIRONMENT ...): NAME, or NAME.0 to NAME.n-1 with a share each.
function(tandem_test_entries name)
  cmake_parse_arguments(ARG "" "SHARDS" "LABELS;ENVIRONMENT" ${ARGN})
  set(names ${name})
  if(ARG_SHARDS)
    math(EXPR last "${ARG_SHARDS} - 1")
    set(names)
    foreach(shard RANGE ${last})
      list(APPEND names ${name}.${shard})
    endforeach()
  endif()
  set(shard 0)
  foreach(entry ${names})
    add_test(NAME ${entry} COMMAND ${ARG_UNPARSED_ARGUMENTS} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set(environment ${ARG_ENVIRONMENT})
    if(TANDEM_COVERAGE)
      # A kill may cut a file of counts. Every later process says so: not on stderr, which tests read.
      list(APPEND environment GCOV_ERROR_FILE=${CMAKE_BINARY_DIR}/gcov-errors.log)
    endif()
    if(ARG_SHARDS)
      list(APPEND environment GTEST_TOTAL_SHARDS=${ARG_SHARDS} GTEST_SHARD_INDEX=${shard})
    endif()
    # A binary whose every test skipped prints "[  SKIPPED ]" lines.
    set_tests_properties(${entry} PROPERTIES LABELS "${ARG_LABELS}" ENVIRONMENT "${environment}" TIMEOUT 900)
    math(EXPR shard "${shard} + 1")
  endforeach()
endfunction()

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
  target_compile_options(tandem_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:--coverage -Og -g>)
  target_link_options(tandem_flags INTERFACE --coverage)
endif()
if(TANDEM_SANITIZE)
  target_compile_options(tandem_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TANDEM_SANITIZE} -fno-omit-frame-pointer -g>)
  target_link_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE})
endif()

# tandem_library(NAME SOURCES ... DEPS ...): a static library of one folder.
function(tandem_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC tandem_flags ${ARG_DEPS})
endfunction()

# tandem_test(NAME SOURCES ... DEPS ... LABELS ... ALONE): a GoogleTest binary; one ctest entry a test case group (suite).
# ALONE: it measures time or free memory of a card, so that no other test may run beside it.
function(tandem_test name)
  if(NOT TANDEM_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "ALONE" "" "SOURCES;DEPS;LABELS;ENVIRONMENT" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tandem_flags ${ARG_DEPS} GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  # Exit code 77 from a binary whose every test skipped; GoogleTest prints "[  SKIPPED ]" lines otherwise.
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" ENVIRONMENT "${ARG_ENVIRONMENT}" TIMEOUT 900)
  if(ARG_ALONE)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

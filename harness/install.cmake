# What `cmake --install` and `cpack` put where. Binaries find the sweeps from their own place, so that the tree may be moved.
set(TANDEM_SHARE ${CMAKE_INSTALL_DATADIR}/tandem)
install(TARGETS tandem RUNTIME)
foreach(suite ${TANDEM_SUITES})
  install(TARGETS suite_${suite} RUNTIME)
endforeach()
if(TARGET tandem_cupti)
  install(TARGETS tandem_cupti LIBRARY DESTINATION lib)  # where harness/trace looks for it
endif()
install(DIRECTORY suites/ DESTINATION ${TANDEM_SHARE}/suites FILES_MATCHING PATTERN "*.json"
        PATTERN testdata EXCLUDE PATTERN testing EXCLUDE)
file(GLOB schemas harness/record/*.schema.json)
install(FILES ${schemas} DESTINATION ${TANDEM_SHARE}/schemas)
install(FILES LICENSE README.md CHANGELOG.md CITATION.cff DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(CPACK_PACKAGE_NAME tandem)
set(CPACK_PACKAGE_VENDOR "The Tandem maintainers")
set(CPACK_PACKAGE_CONTACT ${CPACK_PACKAGE_VENDOR})
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
if(TANDEM_CUDA)
  # Libraries of the toolkit are no Debian packages that could be depended on.
  set(CPACK_GENERATOR TGZ)
  set(CPACK_SYSTEM_NAME ${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR}-cuda)
else()
  set(CPACK_GENERATOR DEB)
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)  # Debian's name for it
endif()
include(CPack)

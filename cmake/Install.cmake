# Installs the program, the static library with its headers, the CMake package cachette and the pkg-config file.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/cachette)

install(TARGETS cachette EXPORT cachette-targets)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/cachette
        FILES_MATCHING PATTERN "*.h" PATTERN "cli" EXCLUDE)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(TARGET cachette_cli)
  install(TARGETS cachette_cli)
endif()

install(EXPORT cachette-targets NAMESPACE cachette:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/cachette-config.cmake.in cachette-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(cachette-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cachette-config.cmake ${PROJECT_BINARY_DIR}/cachette-config-version.cmake
        DESTINATION ${package_dir})

# ${pcfiledir} keeps the file right wherever the tree is installed or moved to.
file(RELATIVE_PATH pc_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/cachette.pc.in cachette.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cachette.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

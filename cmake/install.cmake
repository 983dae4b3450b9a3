# Install: headers, library, find_package(zds), pkg-config. zds::zds is the core; zds::plugin is the
# headers alone, all that a plugin needs.
include(CMakePackageConfigHelpers)

add_library(zds_plugin_abi INTERFACE)
target_include_directories(zds_plugin_abi INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_target_properties(zds_plugin_abi PROPERTIES EXPORT_NAME plugin)
add_library(zds::plugin ALIAS zds_plugin_abi)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/zds)
install(TARGETS zds zds_plugin_abi EXPORT zds LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/zds DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN *.h)
install(EXPORT zds FILE zdsTargets.cmake NAMESPACE zds:: DESTINATION ${package_dir})
configure_package_config_file(cmake/zdsConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/zdsConfig.cmake
    INSTALL_DESTINATION ${package_dir} PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_BINDIR)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/zdsConfigVersion.cmake
    COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/zdsConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/zdsConfigVersion.cmake
    cmake/zdsPlugin.cmake DESTINATION ${package_dir})
file(RELATIVE_PATH libdir_to_prefix /${CMAKE_INSTALL_LIBDIR} /)
configure_file(cmake/zds.pc.in ${CMAKE_CURRENT_BINARY_DIR}/zds.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/zds.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

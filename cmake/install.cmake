# Install: headers, library, find_package(zds), pkg-config.
include(CMakePackageConfigHelpers)
install(TARGETS zds EXPORT zds LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/zds DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

target_link_libraries(zds-run PRIVATE PkgConfig::HWLOC)

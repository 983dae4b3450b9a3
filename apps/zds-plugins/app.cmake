# The helper that opens a plugin's file on behalf of libzds.so, which finds it beside itself. It holds
# the few files of the core that judge a descriptor, so that it starts fast.
set(probe_core child descriptor fault json needs options table)
list(TRANSFORM probe_core PREPEND ${PROJECT_SOURCE_DIR}/core/plugin/)
list(TRANSFORM probe_core APPEND .c)
file(GLOB probe_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/probe/*.c)
add_executable(zds-plugin-probe ${probe_sources} ${probe_core}
    ${PROJECT_SOURCE_DIR}/core/host/error.c ${PROJECT_SOURCE_DIR}/core/host/nearest.c
    ${PROJECT_SOURCE_DIR}/core/host/bootstrap.c ${PROJECT_SOURCE_DIR}/core/host/meet.c
    ${PROJECT_SOURCE_DIR}/core/host/meet_tcp.c)
target_include_directories(zds-plugin-probe PRIVATE ${CMAKE_CURRENT_LIST_DIR}/probe
    ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/core ${PROJECT_SOURCE_DIR}/apps)
target_link_libraries(zds-plugin-probe PRIVATE PkgConfig::CJSON Threads::Threads m ${CMAKE_DL_LIBS})
set_target_properties(zds-plugin-probe PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/zds)
install(TARGETS zds-plugin-probe RUNTIME DESTINATION ${CMAKE_INSTALL_LIBDIR}/zds)
add_dependencies(zds zds-plugin-probe)

# --check runs the helper itself.
target_sources(${app} PRIVATE ${PROJECT_SOURCE_DIR}/core/plugin/child.c
    ${PROJECT_SOURCE_DIR}/core/plugin/fault.c ${PROJECT_SOURCE_DIR}/core/plugin/place.c ${PROJECT_SOURCE_DIR}/core/host/error.c)
target_include_directories(${app} PRIVATE ${PROJECT_SOURCE_DIR}/core)
target_link_libraries(${app} PRIVATE ${CMAKE_DL_LIBS})

# --new copies templates, from beside the helper.
install(DIRECTORY ${CMAKE_CURRENT_LIST_DIR}/templates DESTINATION ${CMAKE_INSTALL_LIBDIR}/zds)
file(GLOB_RECURSE templates CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_LIST_DIR}
    ${CMAKE_CURRENT_LIST_DIR}/templates/*)
foreach(template ${templates})
    configure_file(${CMAKE_CURRENT_LIST_DIR}/${template} ${CMAKE_BINARY_DIR}/lib/zds/${template} COPYONLY)
endforeach()

# Two helpers beside libzds.so, with those of the core's objects in them that they use: they judge a
# descriptor, and make a step, as the library does. zds-plugin-probe opens a plugin's file on the
# library's behalf, once a file in a listing, and so is small and starts fast; zds-plugin-check
# serves --check.
file(GLOB check_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/probe/*.c)
list(REMOVE_ITEM check_sources ${CMAKE_CURRENT_LIST_DIR}/probe/main.c)
add_executable(zds-plugin-probe ${CMAKE_CURRENT_LIST_DIR}/probe/main.c)
add_executable(zds-plugin-check ${check_sources})
foreach(helper zds-plugin-probe zds-plugin-check)
    target_include_directories(${helper} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/probe ${PROJECT_SOURCE_DIR}/apps)
    target_link_libraries(${helper} PRIVATE zds_inside)
    # What a helper does not use costs it no time at the start.
    target_link_options(${helper} PRIVATE -Wl,--as-needed)
    set_target_properties(${helper} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/zds)
    install(TARGETS ${helper} RUNTIME DESTINATION ${CMAKE_INSTALL_LIBDIR}/zds)
endforeach()
add_dependencies(zds zds-plugin-probe)
add_dependencies(${app} zds-plugin-check)

# --check runs the helper itself.
target_link_libraries(${app} PRIVATE zds_inside)

# --new copies templates, from beside the helper.
install(DIRECTORY ${CMAKE_CURRENT_LIST_DIR}/templates DESTINATION ${CMAKE_INSTALL_LIBDIR}/zds)
file(GLOB_RECURSE templates CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_LIST_DIR}
    ${CMAKE_CURRENT_LIST_DIR}/templates/*)
foreach(template ${templates})
    configure_file(${CMAKE_CURRENT_LIST_DIR}/${template} ${CMAKE_BINARY_DIR}/lib/zds/${template} COPYONLY)
endforeach()

# zds_add_plugin(TARGET SOURCE... [LIBRARIES LIBRARY...]): a module TARGET.so that zds loads. It sees
# zds/plugin.h, shows nothing but what ZDS_PLUGINS exports, must find every symbol when it is linked,
# and is optimised unless a build type says otherwise. `ctest` holds it against zds-plugins --check,
# `cmake --install` puts it into this zds's plugin folder; name the target KIND_NAME there, and it is
# found without opening others.
function(zds_add_plugin target)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LIBRARIES")
    add_library(${target} MODULE ${arg_UNPARSED_ARGUMENTS})
    target_link_libraries(${target} PRIVATE zds::plugin ${arg_LIBRARIES} m)
    get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
    if("C" IN_LIST languages)
        target_compile_features(${target} PRIVATE c_std_11)
    endif()
    if("CXX" IN_LIST languages)
        target_compile_features(${target} PRIVATE cxx_std_14)
    endif()
    target_compile_options(${target} PRIVATE $<$<CONFIG:>:-O3>)
    target_link_options(${target} PRIVATE LINKER:-z,defs)
    set_target_properties(${target} PROPERTIES PREFIX "" C_VISIBILITY_PRESET hidden
        CXX_VISIBILITY_PRESET hidden)
    install(TARGETS ${target} LIBRARY DESTINATION ${zds_PLUGIN_DIR})
    add_test(NAME ${target}_check COMMAND ${zds_PLUGINS_PROGRAM} --check $<TARGET_FILE:${target}>)
endfunction()

# A kernel, NAME_kernel.c, is compiled once for each kind of processor: SIMD_LEVEL says for which.
set(ZDS_SIMD_LEVELS scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND ZDS_SIMD_LEVELS avx2 avx512)
    set(ZDS_SIMD_avx2 -mavx2 -mfma -mf16c)
    if(ZDS_EMULATE_AVX512)
        set(ZDS_SIMD_avx512 ${ZDS_SIMD_avx2} -Wno-psabi -DZDS_KERNEL_AVX512)
    else()
        set(ZDS_SIMD_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
            -mprefer-vector-width=512)
    endif()
endif()

# zds_kernels(TARGET OBJECTS KERNEL.c...): object libraries TARGET_LEVEL; OBJECTS becomes the list of
# what they hold.
function(zds_kernels target objects)
    set(all "")
    foreach(level ${ZDS_SIMD_LEVELS})
        string(TOUPPER ${level} upper)
        add_library(${target}_${level} OBJECT ${ARGN})
        target_include_directories(${target}_${level} PRIVATE ${PROJECT_SOURCE_DIR}/include
            ${PROJECT_SOURCE_DIR}/plugins)
        target_compile_definitions(${target}_${level} PRIVATE SIMD_LEVEL=SIMD_${upper})
        target_compile_options(${target}_${level} PRIVATE ${ZDS_SIMD_${level}})
        list(APPEND all $<TARGET_OBJECTS:${target}_${level}>)
    endforeach()
    set(${objects} "${all}" PARENT_SCOPE)
endfunction()

# zds_plugin(KIND NAME [KERNELS KERNEL.c...] [LIBRARIES LIBRARY...]): plugins/KIND/NAME/*.c, and kernels
# of other folders, become lib/zds/plugins/KIND_NAME.so.
set(ZDS_PLUGIN_DIR zds/plugins)
add_custom_target(zds_plugins)

function(zds_plugin kind name)
    cmake_parse_arguments(arg "" "" "KERNELS;LIBRARIES" ${ARGN})
    file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/plugins/${kind}/${name}/*.c)
    set(kernels ${sources})
    list(FILTER kernels INCLUDE REGEX "_kernel\\.c$")
    list(FILTER sources EXCLUDE REGEX "_kernel\\.c$")
    list(APPEND kernels ${arg_KERNELS})
    set(target ${kind}_${name})
    set(objects "")
    if(kernels)
        zds_kernels(${target} objects ${kernels})
    endif()
    add_library(${target} MODULE ${sources} ${objects})
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/plugins)
    target_link_libraries(${target} PRIVATE plugin_common ${arg_LIBRARIES} m)
    set_target_properties(${target} PROPERTIES PREFIX "" OUTPUT_NAME ${target}
        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/${ZDS_PLUGIN_DIR})
    file(REMOVE ${CMAKE_BINARY_DIR}/lib/${ZDS_PLUGIN_DIR}/${target}.absent) # of a build before
    add_dependencies(zds_plugins ${target})
    install(TARGETS ${target} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/${ZDS_PLUGIN_DIR})
endfunction()

# zds_plugin_absent(KIND NAME REASON): it is left out of this build, and lib/zds/plugins/KIND_NAME.absent
# says why, which zds-plugins --list shows and whoever asks for the plugin is told.
function(zds_plugin_absent kind name reason)
    message(STATUS "plugin ${kind} ${name} is left out: ${reason}")
    set(file ${CMAKE_BINARY_DIR}/lib/${ZDS_PLUGIN_DIR}/${kind}_${name})
    file(REMOVE ${file}.so) # of a build before
    file(WRITE ${file}.absent "${reason}\n")
    install(FILES ${file}.absent DESTINATION ${CMAKE_INSTALL_LIBDIR}/${ZDS_PLUGIN_DIR})
endfunction()

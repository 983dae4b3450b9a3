# zds_plugin(KIND NAME [LIBRARIES ..]): plugins/KIND/NAME/*.c become lib/zds/plugins/KIND_NAME.so.
# Sources named *_avx2.c and *_avx512.c are compiled for those processors, on x86-64 only.
set(ZDS_PLUGIN_DIR zds/plugins)
add_custom_target(zds_plugins)

function(zds_simd_flags)
    foreach(source ${ARGN})
        if(source MATCHES "_avx2\\.c$")
            set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
        elseif(source MATCHES "_avx512\\.c$" AND ZDS_EMULATE_AVX512)
            set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                "-mavx2;-mfma;-mf16c;-Wno-psabi;-DZDS_KERNEL_AVX512")
        elseif(source MATCHES "_avx512\\.c$")
            set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mfma;-mf16c;-mprefer-vector-width=512")
        endif()
    endforeach()
endfunction()

function(zds_plugin kind name)
    cmake_parse_arguments(arg "" "" "LIBRARIES" ${ARGN})
    file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/plugins/${kind}/${name}/*.c)
    if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        list(FILTER sources EXCLUDE REGEX "_avx(2|512)\\.c$")
    endif()
    zds_simd_flags(${sources})
    set(target ${kind}_${name})
    add_library(${target} MODULE ${sources})
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/plugins)
    target_link_libraries(${target} PRIVATE plugin_common ${arg_LIBRARIES} m)
    set_target_properties(${target} PROPERTIES PREFIX "" OUTPUT_NAME ${target}
        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/${ZDS_PLUGIN_DIR})
    add_dependencies(zds_plugins ${target})
    install(TARGETS ${target} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/${ZDS_PLUGIN_DIR})
endfunction()

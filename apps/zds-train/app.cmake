# All but main.c is a library of its own, so that tests can link it.
find_package(dnnl REQUIRED)
# oneDNN's threads must be OpenMP's (told to be one a call) or none: TBB would be a second pool.
if(DEFINED DNNL_CPU_THREADING_RUNTIME AND NOT DNNL_CPU_THREADING_RUNTIME MATCHES "^(OMP|SEQ|NONE)$")
    message(FATAL_ERROR "zds-train needs a oneDNN built for OpenMP or sequential use, "
        "not ${DNNL_CPU_THREADING_RUNTIME}")
endif()

set(parts ${sources})
list(FILTER parts EXCLUDE REGEX "/main\\.c$")
foreach(source ${parts})
    if(source MATCHES "/kernels(_avx2|_avx512|)\\.c$")
        string(REPLACE "_" "" level "${CMAKE_MATCH_1}")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
            "${ZDS_SIMD_${level}};-ffp-contract=fast")
    endif()
endforeach()
add_library(zds_train_parts STATIC ${parts})
target_link_libraries(zds_train_parts PUBLIC app_common DNNL::dnnl)
set_target_properties(zds-train PROPERTIES SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/zds-train/main.c)
target_link_libraries(zds-train PRIVATE zds_train_parts)

# oneDNN's threads must be OpenMP's (told to be one a call) or none: TBB would be a second pool.
find_package(dnnl REQUIRED)
if(DEFINED DNNL_CPU_THREADING_RUNTIME AND NOT DNNL_CPU_THREADING_RUNTIME MATCHES "^(OMP|SEQ|NONE)$")
    message(FATAL_ERROR "zds-train needs a oneDNN built for OpenMP or sequential use, "
        "not ${DNNL_CPU_THREADING_RUNTIME}")
endif()

zds_simd_flags(${sources})
foreach(source ${sources})
    if(source MATCHES "/kernels[^/]*\\.c$")
        set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS "-ffp-contract=fast")
    endif()
endforeach()
target_link_libraries(zds-train PRIVATE DNNL::dnnl)

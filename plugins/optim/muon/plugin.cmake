# Its auxiliary Adam is AdamW's kernel; its matrix products are oneDNN's.
find_package(dnnl REQUIRED)
zds_plugin(optim muon LIBRARIES DNNL::dnnl)
file(GLOB adam CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/optim/adamw/adamw_*.c)
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(FILTER adam EXCLUDE REGEX "_avx(2|512)\\.c$")
endif()
target_sources(optim_muon PRIVATE ${adam})

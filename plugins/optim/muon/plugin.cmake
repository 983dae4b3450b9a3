# Its auxiliary Adam is AdamW's kernel; its matrix products are oneDNN's.
find_package(dnnl REQUIRED)
zds_plugin(optim muon KERNELS ${CMAKE_CURRENT_LIST_DIR}/../adamw/adamw_kernel.c LIBRARIES DNNL::dnnl)

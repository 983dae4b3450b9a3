# Language level, warnings, sanitizers, and where built files go.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
option(ZDS_ASSERTS "Check assertions, as tests/run.sh does" OFF)
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O3 -g")
if(NOT ZDS_ASSERTS)
    string(APPEND CMAKE_C_FLAGS_RELWITHDEBINFO " -DNDEBUG")
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

option(ZDS_WERROR "Warnings are errors" OFF)
set(ZDS_SANITIZE "" CACHE STRING "address, thread or empty")
option(ZDS_FUZZ "Build tests/fuzz with libFuzzer, and all code with its instrumentation; needs clang" OFF)
option(ZDS_EMULATE_AVX512 "For tests on other processors: AVX-512's kernels run by SIMDe" OFF)

# No contraction: the scalar, AVX2 and AVX-512 variants of a kernel say themselves where they fuse.
add_compile_options(-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
                    -fno-math-errno -ffp-contract=off)
add_compile_definitions(_GNU_SOURCE)
if(ZDS_WERROR)
    add_compile_options(-Werror)
endif()
if(ZDS_SANITIZE STREQUAL "address")
    add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
    add_link_options(-fsanitize=address,undefined)
elseif(ZDS_SANITIZE STREQUAL "thread")
    add_compile_options(-fsanitize=thread)
    add_link_options(-fsanitize=thread)
endif()

if(ZDS_FUZZ)
    add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
                        -fno-omit-frame-pointer)
    add_link_options(-fsanitize=address,undefined)
endif()

if(ZDS_EMULATE_AVX512)
    add_compile_options(-include ${PROJECT_SOURCE_DIR}/tests/avx512/emulate.h)
endif()

# Programs and the library find each other wherever the tree is moved.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
if(CMAKE_INSTALL_LIBDIR STREQUAL "lib")
    # Else CMake pads the build tree's path with an empty entry, which is the current folder.
    set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
endif()

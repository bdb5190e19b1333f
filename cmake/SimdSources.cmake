# A file *_simd.cc is compiled once per instruction set, in namespace cachette::CACHETTE_ISA (see src/ops/simd.h).
set(CACHETTE_ISAS avx2 avx512 avx512vnni avx512bf16)
set(CACHETTE_FLAGS_avx2 -march=x86-64-v3)
set(CACHETTE_FLAGS_avx512 -march=x86-64-v4)
set(CACHETTE_FLAGS_avx512vnni -march=x86-64-v4 -mavx512vnni -mavx512vbmi)
set(CACHETTE_FLAGS_avx512bf16 -march=x86-64-v4 -mavx512vnni -mavx512vbmi -mavx512bf16)

function(cachette_add_simd_sources target)
  foreach(isa IN LISTS CACHETTE_ISAS)
    set(objects ${target}_${isa})
    add_library(${objects} OBJECT ${ARGN})
    set_target_properties(${objects} PROPERTIES UNITY_BUILD OFF)  # each file names its own tile, block and cap
    target_compile_definitions(${objects} PRIVATE CACHETTE_ISA=${isa} CACHETTE_ISA_${isa}=1)
    target_compile_options(${objects} PRIVATE ${CACHETTE_FLAGS_${isa}} -mprefer-vector-width=512 -fno-math-errno
                           -ffp-contract=fast)
    # The same source four times: UBSan looks at one of them, ASan at all.
    if(NOT isa STREQUAL "avx2")
      target_compile_options(${objects} PRIVATE -fno-sanitize=undefined)
    endif()
    # g++ 12 takes its own AVX-512 headers' deliberately undefined vectors for a mistake (GCC bug 105593).
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${objects} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
    endif()
    target_link_libraries(${objects} PRIVATE cachette_warnings OpenMP::OpenMP_CXX)
    target_include_directories(${objects} PRIVATE ${CMAKE_SOURCE_DIR}/src)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
endfunction()

# Warnings for our own code; errors only in developer builds, so that users' newer compilers still build.
add_library(cachette_warnings INTERFACE)
target_compile_options(cachette_warnings INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
                       $<$<BOOL:${CACHETTE_DEV}>:-Werror>)
if(CACHETTE_SANITIZE)
  add_compile_options(-fsanitize=${CACHETTE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${CACHETTE_SANITIZE})
endif()

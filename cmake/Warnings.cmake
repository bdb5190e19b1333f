# Warnings for our own code; errors only in developer builds, so that users' newer compilers still build.
add_library(cachette_warnings INTERFACE)
target_compile_options(cachette_warnings INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
                       $<$<BOOL:${CACHETTE_DEV}>:-Werror>)
if(CACHETTE_SANITIZE)
  # A third of the dev build went into UBSan's two checks of every pointer. A null one stops under ASan as well;
  # `make fuzz` keeps the check of alignment over what reads files.
  add_compile_options(-fsanitize=${CACHETTE_SANITIZE} -fno-sanitize=null,alignment -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${CACHETTE_SANITIZE})
endif()

/** Folders of tests, which are gone with everything in them when the test is over. */
#ifndef NV_TESTS_TEMP_DIR_H
#define NV_TESTS_TEMP_DIR_H

#include <stddef.h>

/**
 * Make a folder and write its path to @p path; a test that cannot have one ends.
 * @param parent  an existing folder; NULL: /tmp
 */
void temp_dir_make(char *path, size_t size, const char *parent);
/** With all that is in it. */
void temp_dir_remove(const char *path);

#endif

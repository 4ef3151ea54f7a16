/** Columns of text for people: collect rows, then print them aligned. */
#ifndef NV_NAVE_TABLE_H
#define NV_NAVE_TABLE_H

#include <stddef.h>
#include <stdio.h>

#define NV_TABLE_COLUMNS 16

typedef struct nv_table {
    size_t columns;
    char **cells; /* owned copies, row by row */
    size_t count;
    size_t capacity;
} nv_table;

/** A copy fit for a terminal, which the caller frees: each control character (C0, DEL, and C1 in UTF-8) becomes '?'.
 * What devices send must not move the cursor of who looks at it. */
char *nv_plain_dup(const char *text);

/** @p headings are copied; @p columns is at most NV_TABLE_COLUMNS. */
void nv_table_init(nv_table *table, const char *const *headings, size_t columns);
/** Add the next cell, left to right, as by nv_plain_dup(). NULL stands for "". */
void nv_table_add(nv_table *table, const char *text);
/** Print and free. */
void nv_table_finish(nv_table *table, FILE *out);

#endif

#include "nave/table.h"

#include "base/alloc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

char *nv_plain_dup(const char *text)
{
    char *copy = nv_strdup(text);
    char *out = copy;
    for (const unsigned char *in = (const unsigned char *)text; *in; in++) {
        bool c1 = in[0] == 0xC2 && in[1] >= 0x80 && in[1] < 0xA0;
        *out++ = (char)(*in < 0x20 || *in == 0x7F || c1 ? '?' : *in);
        in += c1;
    }
    *out = 0;
    return copy;
}

void nv_table_init(nv_table *table, const char *const *headings, size_t columns)
{
    *table = (nv_table){.columns = columns};
    for (size_t i = 0; i < columns; i++) {
        nv_table_add(table, headings[i]);
    }
}

void nv_table_add(nv_table *table, const char *text)
{
    if (table->count == table->capacity) {
        table->capacity = table->capacity ? 2 * table->capacity : 64;
        table->cells = nv_realloc(table->cells, table->capacity * sizeof(char *));
    }
    table->cells[table->count++] = nv_plain_dup(text ? text : "");
}

void nv_table_finish(nv_table *table, FILE *out)
{
    size_t widths[NV_TABLE_COLUMNS] = {0};
    for (size_t i = 0; i < table->count; i++) {
        size_t len = strlen(table->cells[i]);
        size_t *width = &widths[i % table->columns];
        *width = len > *width ? len : *width;
    }
    for (size_t i = 0; i < table->count; i++) {
        if (i % table->columns + 1 == table->columns) {
            fprintf(out, "%s\n", table->cells[i]);
        } else {
            fprintf(out, "%-*s  ", (int)widths[i % table->columns], table->cells[i]);
        }
        free(table->cells[i]);
    }
    free(table->cells);
    *table = (nv_table){0};
}

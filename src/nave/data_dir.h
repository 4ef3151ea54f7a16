/**
 * The data folder of a hub and what stands in it for others to find:
 *
 *   lock        held by the hub that runs here        hub.json    0600: how local commands reach the hub, with its
 *   nave.yaml   configuration, if the user likes                  policies; written at each start, kept afterwards
 *   log/        telemetry   state/  identities        tls/        CA, certificate, keys
 */
#ifndef NV_NAVE_DATA_DIR_H
#define NV_NAVE_DATA_DIR_H

#include "base/buf.h"

struct json_object;

/** @p wanted, else NAVE_DATA, else the user's place. The caller frees. NULL when there is no HOME to go by. */
char *nv_data_dir_choose(const char *wanted);
/** "dir/name"; the caller frees. */
char *nv_path_join(const char *dir, const char *name);
/** Create with its parents, 0700, and see that it can be used. @return an error with one sentence in @p why */
NV_NODISCARD nv_err nv_data_dir_make(const char *dir, nv_buf *why);
/** A new folder for a throw-away hub; the caller frees the name and removes the tree. */
NV_NODISCARD nv_err nv_data_dir_temporary(char **out, nv_buf *why);
/** Remove a folder with everything in it. Does not follow links. */
void nv_data_dir_remove(const char *dir);

/** Write hub.json, complete or not at all, 0600. */
NV_NODISCARD nv_err nv_hub_file_write(const char *dir, struct json_object *content, nv_buf *why);
/** Read hub.json; the caller puts the object. @return NV_E_NOT_FOUND no hub was ever started here */
NV_NODISCARD nv_err nv_hub_file_read(const char *dir, struct json_object **out, nv_buf *why);

#endif

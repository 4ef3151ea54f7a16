/** The commands of the program. Each takes parsed words, speaks on stdout and stderr, and returns an exit code. */
#ifndef NV_NAVE_COMMANDS_H
#define NV_NAVE_COMMANDS_H

#include "nave/args.h"

int nv_cmd_up(const nv_args *args);
int nv_cmd_device_add(const nv_args *args);
int nv_cmd_device_list(const nv_args *args);
int nv_cmd_device_show(const nv_args *args);
int nv_cmd_device_set(const nv_args *args);
int nv_cmd_device_rm(const nv_args *args);
int nv_cmd_module_add(const nv_args *args);
int nv_cmd_module_list(const nv_args *args);
int nv_cmd_module_show(const nv_args *args);
int nv_cmd_module_rm(const nv_args *args);
int nv_cmd_twin_get(const nv_args *args);
int nv_cmd_twin_patch(const nv_args *args);
int nv_cmd_twin_replace(const nv_args *args);
int nv_cmd_method(const nv_args *args);
int nv_cmd_send(const nv_args *args);
int nv_cmd_feedback(const nv_args *args);
int nv_cmd_query(const nv_args *args);
int nv_cmd_monitor(const nv_args *args);
int nv_cmd_group_add(const nv_args *args);
int nv_cmd_group_list(const nv_args *args);
int nv_cmd_group_rm(const nv_args *args);
int nv_cmd_sas(const nv_args *args);
int nv_cmd_hub_show(const nv_args *args);
int nv_cmd_doctor(const nv_args *args);
int nv_cmd_bench(const nv_args *args);
int nv_cmd_version(const nv_args *args);
int nv_cmd_help(const nv_args *args);
int nv_cmd_completion(const nv_args *args);

#endif

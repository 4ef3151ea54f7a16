/* Twins on a disk that fails: what was refused never was, nobody hears of it, and versions never repeat or go back. */
#include "base/diag.h"
#include "core/twin_rig.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

typedef struct world {
    rig w; /* first member: as the rig's own tests have it */
    nv_fault_disk *disk;
    nv_fault_vfs *vfs;
} world;

static void ignore_line(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    (void)line;
    (void)len;
}

static int setup(void **state)
{
    world *self = calloc(1, sizeof(*self));
    self->disk = nv_fault_disk_new(7);
    nv_disk *disk = nv_fault_disk_disk(self->disk);
    self->vfs = nv_fault_vfs_new(disk, "nave-fault");
    assert_int_equal(nv_disk_make_dir(disk, "/data"), NV_OK);
    assert_int_equal(nv_disk_sync_dir(disk, "/"), NV_OK);
    (void)snprintf(self->w.dir, sizeof(self->w.dir), "/data");
    self->w.vfs = "nave-fault";
    nv_manual_clock_init(&self->w.clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_exec_queue_init(&self->w.queue);
    nv_diag_set_sink(ignore_line, NULL);
    rig_open(&self->w, 0);
    self->w.hub.loops = &self->w.loop;
    twin_rig_clear();
    nv_identity_unref(rig_create(&self->w, "d1", ""));
    *state = self;
    return 0;
}

static int teardown(void **state)
{
    world *self = *state;
    rig_close(&self->w);
    nv_diag_set_sink(NULL, NULL);
    nv_exec_queue_deinit(&self->w.queue);
    nv_fault_vfs_free(self->vfs);
    nv_fault_disk_free(self->disk);
    free(self);
    return 0;
}

static void assert_is(world *self, uint64_t version, int number)
{
    nv_twin *twin = twin_rig_get(&self->w, "d1", "");
    char want[64];
    (void)snprintf(want, sizeof(want), "{\"n\":%d}", number);
    assert_non_null(twin);
    assert_int_equal(twin->desired_version, version);
    assert_int_equal(twin->version, version + 1);
    assert_int_equal(twin->etag, version);
    assert_true(number == 0 || nv_span_eq_str(twin->desired, want));
    nv_twin_unref(twin);
}

static void fail_something(world *self, int i)
{
    if (i % 2) {
        nv_fault_disk_fail_writes(self->disk, 1 + (uint64_t)i % 17, 1, NV_E_IO);
    } else {
        nv_fault_disk_fail_syncs(self->disk, 1 + (uint64_t)i % 3, 1, NV_E_IO);
    }
}

static void what_failed_never_was(void **state)
{
    world *self = *state;
    uint64_t version = 1;
    int last = 0;
    int failures = 0;
    twin_rig_listens = true;
    for (int i = 1; i <= 300; i++) {
        char body[64];
        char told[64];
        twin_rig_told[0] = '\0';
        (void)snprintf(body, sizeof(body), "{\"properties\":{\"desired\":{\"n\":%d}}}", i);
        fail_something(self, i);
        nv_hub_error error = twin_rig_do(&self->w, NV_TWIN_PATCH, "d1", body);
        nv_fault_disk_fail_writes(self->disk, 1, 0, NV_OK);
        nv_fault_disk_fail_syncs(self->disk, 1, 0, NV_OK);
        if (error == NV_HUB_ERROR_NONE) {
            version++;
            last = i;
            (void)snprintf(told, sizeof(told), "d1 %d {\"n\":%d}\n", (int)version, i);
            assert_string_equal(twin_rig_told, told);
        } else {
            assert_int_equal(error, NV_HUB_ERROR_ServiceUnavailable);
            assert_string_equal(twin_rig_told, "");
            failures++;
        }
        assert_is(self, version, last);
    }
    assert_true(failures > 50 && failures < 290);
    assert_int_equal(twin_rig_do(&self->w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"n\":301}}}"),
                     NV_HUB_ERROR_NONE);
    nv_fault_disk_cut(self->disk);
    rig_close(&self->w);
    nv_fault_disk_power_on(self->disk);
    rig_open(&self->w, 0);
    self->w.hub.loops = &self->w.loop;
    assert_is(self, version + 1, 301);
}

typedef struct lane {
    nv_twin_request request;
    char body[64];
    int *left;
} lane;

static void lane_done(nv_twin_request *request)
{
    (*((lane *)request->arg)->left)--;
}

/* Those of one commit share its fate: the first builds nothing that the next could stand on. */
static void operations_of_a_failed_commit_fail_together(void **state)
{
    world *self = *state;
    lane lanes[8];
    uint64_t version = 1;
    for (int round = 0; round < 40; round++) {
        int left = NV_COUNT_OF(lanes);
        uint64_t succeeded = 0;
        if (round % 2) {
            nv_fault_disk_fail_syncs(self->disk, 1, 1, NV_E_IO);
        }
        for (size_t i = 0; i < NV_COUNT_OF(lanes); i++) {
            lane *one = &lanes[i];
            (void)snprintf(one->body, sizeof(one->body), "{\"k%zu\":%d}", i, round);
            one->request = twin_rig_request(NV_TWIN_REPORTED, "d1", "", one->body);
            one->request.done = lane_done;
            one->request.arg = one;
            one->left = &left;
            nv_twin_do(&self->w.loop, &one->request);
        }
        while (left > 0) {
            nv_exec_queue_run_wait(&self->w.queue);
        }
        nv_fault_disk_fail_syncs(self->disk, 1, 0, NV_OK);
        for (size_t i = 0; i < NV_COUNT_OF(lanes); i++) {
            if (lanes[i].request.error == NV_HUB_ERROR_NONE) {
                assert_int_equal(lanes[i].request.reported_version, version + ++succeeded);
            }
        }
        assert_true(round % 2 || succeeded == NV_COUNT_OF(lanes));
        version += succeeded;
        nv_twin *twin = twin_rig_get(&self->w, "d1", "");
        assert_int_equal(twin->reported_version, version);
        nv_twin_unref(twin);
    }
    assert_true(version < 1 + 40 * NV_COUNT_OF(lanes)); /* some failed */
}

/*
 * Power cuts in the middle of eight patches at once, again and again: what was acknowledged is there, the version tells
 * which patch was the last, and no version comes twice.
 */
static void power_cuts_lose_nothing_acknowledged(void **state)
{
    world *self = *state;
    lane lanes[8];
    uint64_t version = 1;
    uint64_t cuts_with_loss = 0;
    for (uint64_t round = 1; round <= 60; round++) {
        int left = NV_COUNT_OF(lanes);
        uint64_t acknowledged = 0;
        nv_fault_disk_cut_after(self->disk, 1 + round % 13);
        for (size_t i = 0; i < NV_COUNT_OF(lanes); i++) {
            lane *one = &lanes[i];
            (void)snprintf(one->body, sizeof(one->body), "{\"n\":%llu}", (unsigned long long)(version + i + 1));
            one->request = twin_rig_request(NV_TWIN_REPORTED, "d1", "", one->body);
            one->request.done = lane_done;
            one->request.arg = one;
            one->left = &left;
            nv_twin_do(&self->w.loop, &one->request);
        }
        while (left > 0) {
            nv_exec_queue_run_wait(&self->w.queue);
        }
        for (size_t i = 0; i < NV_COUNT_OF(lanes); i++) {
            if (lanes[i].request.error == NV_HUB_ERROR_NONE) {
                assert_int_equal(lanes[i].request.reported_version, version + i + 1);
                assert_int_equal(acknowledged, i); /* none behind one that failed */
                acknowledged++;
            }
        }
        nv_fault_disk_cut(self->disk);
        rig_close(&self->w);
        nv_fault_disk_power_on(self->disk);
        rig_open(&self->w, 0);
        self->w.hub.loops = &self->w.loop;
        nv_twin *twin = twin_rig_get(&self->w, "d1", "");
        assert_non_null(twin);
        assert_in_range(twin->reported_version, version + acknowledged, version + NV_COUNT_OF(lanes));
        if (twin->reported_version > 1) {
            char want[64];
            (void)snprintf(want, sizeof(want), "{\"n\":%llu}", (unsigned long long)twin->reported_version);
            assert_true(nv_span_eq_str(twin->reported, want));
        }
        cuts_with_loss += acknowledged < NV_COUNT_OF(lanes) ? 1 : 0;
        version = twin->reported_version;
        nv_twin_unref(twin);
    }
    assert_true(cuts_with_loss > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_failed_never_was, setup, teardown),
        cmocka_unit_test_setup_teardown(operations_of_a_failed_commit_fail_together, setup, teardown),
        cmocka_unit_test_setup_teardown(power_cuts_lose_nothing_acknowledged, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

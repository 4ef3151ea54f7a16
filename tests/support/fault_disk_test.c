/** The fault disk must itself forget, tear and fail as it promises, or the crash tests prove nothing. */
#include "support/fault_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { SECTORS = 64, SIZE = SECTORS * NV_FAULT_SECTOR };

static uint8_t block[SIZE] __attribute__((aligned(NV_DISK_BLOCK)));

static nv_file *must_open(nv_fault_disk *f, const char *path, unsigned flags)
{
    nv_file *file = NULL;
    assert_int_equal(nv_disk_open(nv_fault_disk_disk(f), path, flags, &file), NV_OK);
    return file;
}

static void fill(uint8_t byte)
{
    memset(block, byte, sizeof(block));
}

/** How many sectors of d/a hold @p byte throughout. */
static size_t sectors_with(nv_fault_disk *f, uint8_t byte)
{
    uint8_t sector[NV_FAULT_SECTOR];
    size_t count = 0;
    for (size_t i = 0; i < SECTORS; i++) {
        size_t got = nv_fault_disk_peek(f, "d/a", sector, sizeof(sector), i * NV_FAULT_SECTOR);
        bool same = got == sizeof(sector);
        for (size_t k = 0; k < got; k++) {
            same = same && sector[k] == byte;
        }
        count += same;
    }
    return count;
}

static nv_file *create_synced(nv_fault_disk *f, uint8_t byte)
{
    nv_file *file = must_open(f, "d/a", NV_OPEN_READ | NV_OPEN_WRITE | NV_OPEN_CREATE);
    fill(byte);
    assert_int_equal(nv_file_write(file, block, SIZE, 0), NV_OK);
    assert_int_equal(nv_file_sync(file), NV_OK);
    assert_int_equal(nv_disk_sync_dir(nv_fault_disk_disk(f), "d"), NV_OK);
    return file;
}

static void unsynced_bytes_tear(void **state)
{
    (void)state;
    nv_fault_disk *f = nv_fault_disk_new(7);
    nv_file *file = create_synced(f, 1);
    fill(2);
    assert_int_equal(nv_file_write(file, block, SIZE, 0), NV_OK);
    nv_fault_disk_cut(f);
    assert_int_equal(nv_file_sync(file), NV_E_IO);
    nv_fault_disk_power_on(f);
    assert_int_equal(nv_file_sync(file), NV_E_IO); /* the old file stays dead */
    nv_file_close(file);
    size_t old = sectors_with(f, 1);
    size_t new = sectors_with(f, 2);
    assert_int_equal(old + new, SECTORS);
    assert_true(old > 0 && new > 0);
    nv_fault_disk_free(f);
}

static void synced_bytes_stay(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        nv_fault_disk *f = nv_fault_disk_new(seed);
        nv_file *file = create_synced(f, 1);
        nv_file *direct = must_open(f, "d/a", NV_OPEN_WRITE | NV_OPEN_DIRECT | NV_OPEN_DSYNC);
        fill(3);
        assert_int_equal(nv_file_write(direct, block, SIZE, 0), NV_OK);
        assert_int_equal(nv_file_write(direct, block + 1, NV_DISK_BLOCK, 0), NV_E_INVALID);
        nv_fault_disk_power_on(f);
        assert_int_equal(sectors_with(f, 3), SECTORS);
        nv_file_close(direct);
        nv_file_close(file);
        nv_fault_disk_free(f);
    }
}

static void names_need_their_folder_synced(void **state)
{
    (void)state;
    size_t lost = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        nv_fault_disk *f = nv_fault_disk_new(seed);
        nv_file_close(create_synced(f, 1));
        assert_int_equal(nv_disk_rename(nv_fault_disk_disk(f), "d/a", "d/b"), NV_OK);
        nv_fault_disk_power_on(f);
        bool a = nv_disk_exists(nv_fault_disk_disk(f), "d/a");
        bool b = nv_disk_exists(nv_fault_disk_disk(f), "d/b");
        assert_true(a != b);
        lost += a;
        nv_fault_disk_free(f);
    }
    assert_true(lost > 0 && lost < 50);
}

static void failed_sync_cannot_be_repeated(void **state)
{
    (void)state;
    nv_fault_disk *f = nv_fault_disk_new(5);
    nv_file *file = create_synced(f, 1);
    fill(2);
    assert_int_equal(nv_file_write(file, block, SIZE, 0), NV_OK);
    nv_fault_disk_fail_syncs(f, 1, 1, NV_E_IO);
    assert_int_equal(nv_file_sync(file), NV_E_IO);
    assert_int_equal(nv_file_sync(file), NV_OK);
    assert_int_equal(sectors_with(f, 2), SECTORS); /* the page cache still shows the new bytes */
    assert_int_equal(nv_file_drop_cache(file), NV_OK);
    assert_true(sectors_with(f, 1) > 0); /* the disk does not have them all */
    nv_file_close(file);
    nv_fault_disk_free(f);
}

static void full_disk_and_short_writes(void **state)
{
    (void)state;
    nv_fault_disk *f = nv_fault_disk_new(5);
    nv_file *file = must_open(f, "d/a", NV_OPEN_WRITE | NV_OPEN_CREATE);
    nv_fault_disk_set_capacity(f, 6000);
    assert_int_equal(nv_file_write(file, block, SIZE, 0), NV_E_NO_SPACE);
    assert_int_equal(nv_file_write(file, block, 6000, 0), NV_OK);
    assert_int_equal(nv_file_allocate(file, 8000), NV_E_NO_SPACE);
    nv_fault_disk_set_capacity(f, UINT64_MAX);
    nv_fault_disk_set_short_writes(f, true);
    fill(9);
    assert_int_equal(nv_file_write(file, block, SIZE, 0), NV_OK);
    assert_int_equal(sectors_with(f, 9), SECTORS);
    nv_fault_disk_fail_writes(f, 2, 1, NV_E_IO);
    assert_int_equal(nv_file_write(file, block, 512, 0), NV_OK);
    assert_int_equal(nv_file_write(file, block, 512, 0), NV_E_IO);
    assert_int_equal(nv_file_write(file, block, 512, 0), NV_OK);
    nv_file_close(file);
    nv_fault_disk_free(f);
}

static void locks_and_cut_after(void **state)
{
    (void)state;
    nv_fault_disk *f = nv_fault_disk_new(5);
    nv_file *held = NULL;
    nv_file *second = NULL;
    assert_int_equal(nv_disk_lock(nv_fault_disk_disk(f), "d/lock", &held), NV_OK);
    assert_int_equal(nv_disk_lock(nv_fault_disk_disk(f), "d/lock", &second), NV_E_IN_USE);
    nv_file_close(held);
    assert_int_equal(nv_disk_lock(nv_fault_disk_disk(f), "d/lock", &held), NV_OK);
    nv_fault_disk_cut_after(f, 2);
    assert_int_equal(nv_file_write(held, block, 512, 0), NV_OK);
    assert_int_equal(nv_file_write(held, block, 512, 0), NV_E_IO);
    assert_true(nv_fault_disk_is_cut(f));
    nv_fault_disk_power_on(f);
    nv_file_close(held);
    assert_int_equal(nv_disk_lock(nv_fault_disk_disk(f), "d/lock", &held), NV_OK);
    nv_file_close(held);
    nv_fault_disk_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unsynced_bytes_tear),
        cmocka_unit_test(synced_bytes_stay),
        cmocka_unit_test(names_need_their_folder_synced),
        cmocka_unit_test(failed_sync_cannot_be_repeated),
        cmocka_unit_test(full_disk_and_short_writes),
        cmocka_unit_test(locks_and_cut_after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

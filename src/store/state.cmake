# The state store.
nv_library(nv_state SOURCES state.c state_c2d.c state_db.c state_groups.c state_outbox.c state_session.c state_twin.c state_txn.c
    DEPS nv_base PkgConfig::SQLITE)
nv_test(state_test SOURCES state_test.c DEPS nv_state nv_temp_dir)
nv_test(state_scan_test SOURCES state_scan_test.c DEPS nv_state nv_temp_dir)
nv_test(state_fault_test SOURCES state_fault_test.c DEPS nv_state nv_fault_vfs nv_fault_disk)
if(BUILD_TESTING)
    add_executable(state_crash_test state_crash_test.c)
    target_link_libraries(state_crash_test PRIVATE nv_state nv_fault_vfs nv_fault_disk)
    add_test(NAME state_crash_test COMMAND state_crash_test honest 1000)
    # The proof that the test can fail: a disk that reports syncs it does not do must lose something.
    add_test(NAME state_crash_lying_test COMMAND state_crash_test lying 1000)
    set_tests_properties(state_crash_test state_crash_lying_test PROPERTIES LABELS "crash" TIMEOUT 1800)
    set_tests_properties(state_crash_lying_test PROPERTIES WILL_FAIL TRUE)
endif()
nv_test(state_twin_test SOURCES state_twin_test.c DEPS nv_state nv_temp_dir)

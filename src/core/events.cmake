# Events of the hub; across power cuts, too.
if(BUILD_TESTING)
    add_executable(events_crash_test events_crash_test.c)
    target_link_libraries(events_crash_test PRIVATE nv_events_hub nv_hub_rest nv_fault_vfs nv_fault_disk)
    add_test(NAME events_crash_test COMMAND events_crash_test honest 1000)
    # The proofs that the test can fail.
    add_test(NAME events_crash_lying_test COMMAND events_crash_test lying 300)
    add_test(NAME events_crash_forgetful_test COMMAND events_crash_test forgetful 300)
    set_tests_properties(events_crash_test events_crash_lying_test events_crash_forgetful_test
        PROPERTIES LABELS "crash" TIMEOUT 1800)
    set_tests_properties(events_crash_lying_test events_crash_forgetful_test PROPERTIES WILL_FAIL TRUE)
endif()
nv_test(events_test SOURCES events_test.c DEPS nv_events_rig)
nv_test(events_drain_test SOURCES events_drain_test.c DEPS nv_events_rig)

# Twins, methods and messages against a small reference; the store's calls are caught so that the test orders them.
if(BUILD_TESTING)
    add_executable(model_test model_test.c model_hub.c model_json.c model_twin.c model_conn.c model_call.c model_c2d.c
        model_c2d_check.c model_feedback.c)
    target_link_libraries(model_test PRIVATE nv_core nv_fault_disk nv_fault_vfs PkgConfig::JSONC)
    target_link_options(model_test PRIVATE -Wl,--wrap=nv_state_write -Wl,--wrap=nv_state_read)
    add_test(NAME model_test COMMAND model_test)
    set_tests_properties(model_test PROPERTIES LABELS "unit" TIMEOUT 900)
endif()

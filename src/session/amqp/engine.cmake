# The engine: connection, sessions, links for either end.
target_sources(nv_session PRIVATE engine.c engine_index.c engine_link.c engine_receive.c engine_sasl.c engine_send.c
    engine_session.c engine_settle.c engine_write.c)
nv_test(amqp_engine_rules_test SOURCES engine_rules_test.c DEPS nv_amqp_pair)
nv_test(amqp_engine_pair_test SOURCES engine_pair_test.c DEPS nv_amqp_engine_rig)
nv_test(amqp_engine_owner_test SOURCES engine_owner_test.c DEPS nv_amqp_engine_rig)

# Against an independent engine, where it is installed. Its .pc file names folders that are not there.
find_path(PROTON_INCLUDE proton/connection_driver.h)
find_library(PROTON_LIBRARY qpid-proton)
if(PROTON_INCLUDE AND PROTON_LIBRARY)
    nv_test(amqp_engine_proton_test SOURCES engine_proton_test.c DEPS nv_amqp_pair ${PROTON_LIBRARY})
endif()

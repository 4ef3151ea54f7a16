# Queries: the expression engine (routing will share it), the query language over twins.
target_sources(nv_core PRIVATE expr.c expr_functions.c expr_lex.c expr_parse.c
    query.c query_groups.c query_kept.c query_parse.c query_plan.c query_row.c query_token.c)
target_link_libraries(nv_core PUBLIC m)
nv_test(expr_test SOURCES expr_test.c DEPS nv_core)
nv_test(query_test SOURCES query_test.c DEPS nv_query_rig PkgConfig::JSONC)
nv_test(query_page_test SOURCES query_page_test.c DEPS nv_query_rig PkgConfig::JSONC)
nv_test(expr_random_test SOURCES expr_random_test.c DEPS nv_core PkgConfig::JSONC)
nv_test(query_race_test SOURCES query_race_test.c DEPS nv_real_core)

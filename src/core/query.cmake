# Queries: the expression engine (routing will share it), the query language over twins.
target_sources(nv_core PRIVATE expr.c expr_functions.c expr_lex.c expr_parse.c)
target_link_libraries(nv_core PUBLIC m)
nv_test(expr_test SOURCES expr_test.c DEPS nv_core)

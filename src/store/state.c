/*
 * Threads of the state store.
 *
 *   any thread               writer thread                                 reader thread
 *   nv_state_write --queue-> take all; BEGIN                nv_state_read -> take all; BEGIN
 *                            each: run, or undo to its savepoint             each: run, post done
 *                            totals; COMMIT (the sync); post every done      COMMIT
 *
 * The scanner is a second reader for work that goes on for long, in slices: it has its own connection, so that nobody
 * who asks for one row waits behind it, and gives way to the other threads.
 *
 * The totals (counts, last generation) live in the writer's memory and in one row; an operation works on a copy that
 * counts only if it succeeds, and readers of the counts see them after the commit.
 */
#include "store/state_db.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/sched.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUE_MAX_DEFAULT        65536u
#define CHECKPOINT_PAGES_DEFAULT 1000u
/* Per transaction: a write-ahead log that stays small, and a reader's view that does not get old. */
#define WRITES_PER_COMMIT 4096u
#define READS_PER_VIEW    256u
#define SCANS_PER_VIEW    4u
/* How long scans wait at most for the writer to fold its log. */
#define SCAN_WAIT_MS 200

typedef struct op_queue {
    pthread_mutex_t lock;
    pthread_cond_t ready;
    nv_state_op *head;
    nv_state_op *tail;
    uint32_t count;
    uint32_t max;
    bool stopping;
} op_queue;

typedef struct worker {
    nv_state *state;
    op_queue queue;
    nv_db db;          /* the thread's, once it runs */
    nv_txn txn;        /* the thread's */
    uint32_t per_view; /* readers: operations that share one view of the data */
    bool background;
    pthread_t thread;
    bool started;
} worker;

struct nv_state {
    worker writer;
    worker reader;
    worker scanner;
    char *path;
    int lock_fd; /* -1: none */
    char id[33];
    bool failing; /* the writer's: the last commit failed; to log once */
    /* writer and scanner */
    pthread_mutex_t fold_lock;
    pthread_cond_t folded;
    bool log_behind; /* as the last commit left it */
    /* any thread */
    _Atomic int health; /* nv_err of the last commit */
    pthread_mutex_t counts_lock;
    nv_state_counts counts;
};

/* ---- queue ---- */

static void queue_init(op_queue *queue, uint32_t max)
{
    *queue = (op_queue){.max = max ? max : QUEUE_MAX_DEFAULT};
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->ready, NULL);
}

static void queue_deinit(op_queue *queue)
{
    pthread_cond_destroy(&queue->ready);
    pthread_mutex_destroy(&queue->lock);
}

static nv_err queue_push(op_queue *queue, nv_state_op *op)
{
    op->_next = NULL;
    pthread_mutex_lock(&queue->lock);
    if (queue->count >= queue->max) {
        pthread_mutex_unlock(&queue->lock);
        return NV_E_AGAIN;
    }
    nv_metric_add(NV_M_STATE_REQUESTS, 1);
    bool wake = !queue->tail;
    if (wake) {
        queue->head = op;
    } else {
        queue->tail->_next = op;
    }
    queue->tail = op;
    queue->count++;
    pthread_mutex_unlock(&queue->lock);
    if (wake) {
        pthread_cond_signal(&queue->ready); /* not under the lock, which is the first thing the worker takes */
    }
    return NV_OK;
}

/* Wait for work and take at most @p max of it, as a list. NULL: stopped and empty. */
static nv_state_op *queue_take(op_queue *queue, uint32_t max)
{
    pthread_mutex_lock(&queue->lock);
    while (!queue->head && !queue->stopping) {
        pthread_cond_wait(&queue->ready, &queue->lock);
    }
    nv_state_op *first = queue->head;
    nv_state_op *last = first;
    uint32_t taken = first ? 1 : 0;
    while (last && last->_next && taken < max) {
        last = last->_next;
        taken++;
    }
    if (last) {
        queue->head = last->_next;
        queue->tail = queue->head ? queue->tail : NULL;
        queue->count -= taken;
        last->_next = NULL;
    }
    pthread_mutex_unlock(&queue->lock);
    return first;
}

static void queue_stop(op_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->stopping = true;
    pthread_cond_broadcast(&queue->ready);
    pthread_mutex_unlock(&queue->lock);
}

/* ---- completions ---- */

static void run_done(nv_task *task)
{
    nv_state_op *op = nv_container_of(task, nv_state_op, _task);
    op->done(op);
    nv_metric_add(NV_M_STATE_REQUESTS_DONE, 1);
}

static void complete(nv_state_op *op)
{
    op->_task.run = run_done;
    nv_post(op->exec, &op->_task);
}

nv_err nv_state_write(nv_state *state, nv_state_op *op)
{
    return queue_push(&state->writer.queue, op);
}

nv_err nv_state_read(nv_state *state, nv_state_op *op)
{
    return queue_push(&state->reader.queue, op);
}

nv_err nv_state_scan(nv_state *state, nv_state_op *op)
{
    return queue_push(&state->scanner.queue, op);
}

/* ---- writer ---- */

/* Run one operation inside the open transaction. @return false when the transaction did not survive it */
static bool run_write(nv_txn *txn, nv_state_op *op)
{
    nv_totals before = txn->totals;
    txn->savepoint = false;
    op->status = op->run(op, txn);
    nv_arena_reset(&txn->arena);
    if (!nv_db_in_transaction(txn->db)) {
        return false; /* some failures (a full disk) roll everything back on their own */
    }
    nv_err err = NV_OK;
    if (op->status != NV_OK) {
        txn->totals = before;
        err = txn->savepoint ? nv_db_run(txn->db, NV_SQL_UNDO) : NV_OK;
    }
    if (err == NV_OK && txn->savepoint) {
        err = nv_db_run(txn->db, NV_SQL_RELEASE);
    }
    if (err != NV_OK && op->status == NV_OK) {
        op->status = err;
    }
    return err == NV_OK;
}

static nv_err put_totals(nv_db *db, const nv_totals *totals)
{
    nv_query query = nv_query_start(db, NV_SQL_TOTALS_PUT);
    nv_query_u64(&query, totals->generation);
    nv_query_u64(&query, totals->counts.devices);
    nv_query_u64(&query, totals->counts.devices_enabled);
    nv_query_u64(&query, totals->counts.modules);
    return nv_query_finish(&query);
}

static bool totals_equal(const nv_totals *a, const nv_totals *b)
{
    return a->generation == b->generation && a->counts.devices == b->counts.devices &&
           a->counts.devices_enabled == b->counts.devices_enabled && a->counts.modules == b->counts.modules;
}

/* @p cause  the failure that ended the transaction, or NV_OK to commit it */
static nv_err end_transaction(nv_state *state, const nv_totals *before, nv_err cause)
{
    nv_txn *txn = &state->writer.txn;
    nv_err err = cause;
    if (err == NV_OK && !totals_equal(before, &txn->totals)) {
        err = put_totals(txn->db, &txn->totals);
    }
    err = err == NV_OK ? nv_db_run(txn->db, NV_SQL_COMMIT) : err;
    if (err != NV_OK && nv_db_in_transaction(txn->db)) {
        nv_ignore(nv_db_run(txn->db, NV_SQL_ROLLBACK));
    }
    if (err != NV_OK) {
        txn->totals = *before;
        return err;
    }
    pthread_mutex_lock(&state->counts_lock);
    state->counts = txn->totals.counts;
    pthread_mutex_unlock(&state->counts_lock);
    return NV_OK;
}

static void note_outcome(nv_state *state, nv_err err)
{
    if (err != NV_OK && !state->failing) {
        nv_diag(NV_LEVEL_ERROR, "state", NULL, "cannot store in %s: %s (%s)", state->path, nv_err_text(err),
                sqlite3_errmsg(state->writer.db.handle));
    } else if (err == NV_OK && state->failing) {
        nv_diag(NV_LEVEL_INFO, "state", NULL, "storing in %s works again", state->path);
    }
    state->failing = err != NV_OK;
    atomic_store_explicit(&state->health, (int)err, memory_order_relaxed);
}

nv_err nv_state_health(const nv_state *state)
{
    return (nv_err)atomic_load_explicit(&state->health, memory_order_relaxed);
}

/* Whoever reads without a pause keeps the write-ahead log from being folded, and it grows: the scanner makes one. */
static void tell_log(nv_state *state)
{
    bool behind = state->writer.db.log_behind;
    pthread_mutex_lock(&state->fold_lock);
    if (state->log_behind && !behind) {
        pthread_cond_signal(&state->folded);
    }
    state->log_behind = behind;
    pthread_mutex_unlock(&state->fold_lock);
}

/* Between two views. When nothing is written meanwhile the log does not grow either: then it goes on. */
static void let_log_fold(nv_state *state)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += SCAN_WAIT_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    int rc = 0;
    pthread_mutex_lock(&state->fold_lock);
    while (state->log_behind && rc == 0) {
        rc = pthread_cond_timedwait(&state->folded, &state->fold_lock, &until);
    }
    pthread_mutex_unlock(&state->fold_lock);
}

/*
 * One transaction over the front of the list. All of its operations share the outcome of the commit, refused ones too:
 * what they saw may never have been. @return the rest, when the transaction ended early
 */
static nv_state_op *run_transaction(nv_state *state, nv_state_op *list)
{
    nv_txn *txn = &state->writer.txn;
    nv_totals before = txn->totals;
    nv_err err = nv_db_run(txn->db, NV_SQL_BEGIN);
    nv_state_op *rest = list;
    int64_t count = 0;
    for (bool alive = err == NV_OK; alive && rest; rest = rest->_next) {
        alive = run_write(txn, rest);
        err = alive ? NV_OK : (rest->status != NV_OK ? rest->status : NV_E_IO);
        count++;
    }
    rest = count == 0 ? NULL : rest; /* BEGIN failed: all fail */
    err = end_transaction(state, &before, err);
    tell_log(state);
    note_outcome(state, err);
    nv_metric_add(NV_M_STATE_COMMITS, 1);
    nv_metric_add(NV_M_STATE_OPS, count);
    for (nv_state_op *op = list; op != rest;) {
        nv_state_op *next = op->_next;
        op->status = err != NV_OK ? err : op->status;
        complete(op); /* it is the caller's from here */
        op = next;
    }
    return rest;
}

static void *writer_main(void *arg)
{
    worker *self = arg;
    nv_sched_batch(); /* so it finds all that a turn of a loop asks for, and takes it at once */
    nv_state_op *list;
    while ((list = queue_take(&self->queue, WRITES_PER_COMMIT))) {
        while (list) {
            list = run_transaction(self->state, list);
        }
    }
    return NULL;
}

/* ---- reader and scanner ---- */

static void *reader_main(void *arg)
{
    worker *self = arg;
    if (self->background) {
        nv_sched_background();
    } else {
        nv_sched_batch(); /* so it finds all that a turn of a loop asks for, and takes it at once */
    }
    nv_state_op *list;
    while ((list = queue_take(&self->queue, self->per_view))) {
        if (self->background) {
            let_log_fold(self->state);
        }
        nv_err begun = nv_db_run(&self->db, NV_SQL_BEGIN);
        for (nv_state_op *op = list; op; op = op->_next) {
            op->status = begun == NV_OK ? op->run(op, &self->txn) : begun;
            nv_arena_reset(&self->txn.arena);
        }
        if (nv_db_in_transaction(&self->db)) {
            nv_ignore(nv_db_run(&self->db, NV_SQL_COMMIT));
        }
        while (list) { /* together, so that who waits is woken once */
            nv_state_op *next = list->_next;
            complete(list);
            list = next;
        }
    }
    return NULL;
}

/* ---- open and close ---- */

static nv_err refuse_file(nv_buf *why, const char *what, const char *path, int errno_value)
{
    nv_err err = nv_err_from_errno(errno_value);
    char text[128];
    nv_ignore(nv_buf_printf(why, "cannot %s %s: %s", what, path, strerror_r(errno_value, text, sizeof(text))));
    if (err == NV_E_PERMISSION) {
        nv_ignore(nv_buf_append_str(why, "; give this user the right to it, or choose another data folder"));
    }
    return err;
}

static nv_err take_lock(nv_state *state, const char *dir, nv_buf *why)
{
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/state.lock", dir) >= (int)sizeof(path)) {
        return refuse_file(why, "use the data folder", dir, ENAMETOOLONG);
    }
    /* A file of its own: closing any descriptor of state.db would drop SQLite's locks on it. */
    state->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (state->lock_fd < 0) {
        return refuse_file(why, "open", path, errno);
    }
    if (flock(state->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            return refuse_file(why, "lock", path, errno);
        }
        nv_ignore(nv_buf_printf(
            why, "another hub is running on the data folder %s; stop it, or choose another data folder", dir));
        return NV_E_IN_USE;
    }
    return NV_OK;
}

/* The file is made here, so that it is nobody else's to read from its first moment; SQLite gives its other files the
 * same mode. */
static nv_err prepare_files(nv_state *state, const char *dir, nv_buf *why)
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        return refuse_file(why, "create the data folder", dir, errno);
    }
    nv_err err = take_lock(state, dir, why);
    if (err != NV_OK) {
        return err;
    }
    int fd = open(state->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return refuse_file(why, "open", state->path, errno);
    }
    (void)close(fd);
    return NV_OK;
}

static char *path_of(const char *dir)
{
    size_t size = strlen(dir) + sizeof("/state.db");
    char *path = nv_malloc(size);
    (void)snprintf(path, size, "%s/state.db", dir);
    return path;
}

static nv_err load_id(nv_state *state, nv_txn *txn)
{
    nv_span id;
    nv_err err = nv_txn_meta_get(txn, nv_span_str("id"), &id);
    if (err == NV_OK && id.len == sizeof(state->id) - 1) {
        memcpy(state->id, id.ptr, id.len);
    } else if (err == NV_OK || err == NV_E_NOT_FOUND) {
        err = NV_E_CORRUPT;
    }
    nv_arena_reset(&txn->arena);
    return err;
}

static nv_err load_totals(nv_db *db, nv_totals *totals)
{
    nv_query query = nv_query_start(db, NV_SQL_TOTALS_GET);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        totals->generation = nv_query_column_u64(&query, 0);
        totals->counts.devices = nv_query_column_u64(&query, 1);
        totals->counts.devices_enabled = nv_query_column_u64(&query, 2);
        totals->counts.modules = nv_query_column_u64(&query, 3);
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_CORRUPT : err;
}

static nv_err load_start(nv_state *state, nv_buf *why)
{
    nv_txn *txn = &state->writer.txn;
    nv_err err = load_totals(&state->writer.db, &txn->totals);
    err = err == NV_OK ? load_id(state, txn) : err;
    if (err != NV_OK) {
        nv_ignore(nv_buf_printf(why, "%s cannot be read: %s", state->path, nv_err_text(err)));
    }
    state->counts = txn->totals.counts;
    return err;
}

static void make_id(nv_rng *rng, char out[33])
{
    uint8_t bytes[16];
    nv_rng_fill(rng, bytes, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    }
}

static nv_err open_databases(nv_state *state, const nv_state_config *config, nv_buf *why)
{
    char fresh_id[33];
    make_id(config->rng, fresh_id);
    nv_err err = nv_db_open(&state->writer.db, state->path, config->vfs, true, why);
    err = err == NV_OK
              ? nv_db_migrate(&state->writer.db, state->path, nv_span_str(fresh_id), nv_wall_us(config->clock), why)
              : err;
    err = err == NV_OK ? load_start(state, why) : err;
    if (err == NV_OK) {
        uint32_t pages = config->checkpoint_pages ? config->checkpoint_pages : CHECKPOINT_PAGES_DEFAULT;
        nv_db_set_checkpoint(&state->writer.db, pages);
    }
    err = err == NV_OK ? nv_db_open(&state->reader.db, state->path, config->vfs, false, why) : err;
    return err == NV_OK ? nv_db_open(&state->scanner.db, state->path, config->vfs, false, why) : err;
}

static nv_err start_worker(worker *self, void *(*body)(void *), const char *name, nv_buf *why)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the main thread */
    int rc = pthread_create(&self->thread, NULL, body, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        nv_ignore(nv_buf_printf(why, "cannot start a thread of the state store"));
        return nv_err_from_errno(rc);
    }
    self->started = true;
    (void)pthread_setname_np(self->thread, name);
    return NV_OK;
}

static void init_worker(worker *self, nv_state *state, const nv_state_config *config, bool writes)
{
    self->state = state;
    queue_init(&self->queue, config->queue_max);
    self->txn = (nv_txn){.db = &self->db, .clock = config->clock, .writes = writes};
}

static void stop_worker(worker *self)
{
    if (self->started) {
        queue_stop(&self->queue);
        (void)pthread_join(self->thread, NULL);
    }
    nv_db_close(&self->db);
    nv_arena_deinit(&self->txn.arena);
    queue_deinit(&self->queue);
}

nv_err nv_state_open(nv_state **out, const nv_state_config *config, nv_buf *why)
{
    *out = NULL;
    nv_state *state = nv_calloc(1, sizeof(*state));
    state->lock_fd = -1;
    state->path = path_of(config->dir);
    pthread_mutex_init(&state->counts_lock, NULL);
    pthread_mutex_init(&state->fold_lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* a step of the wall clock must not hold a scan */
    pthread_cond_init(&state->folded, &attr);
    pthread_condattr_destroy(&attr);
    init_worker(&state->writer, state, config, true);
    init_worker(&state->reader, state, config, false);
    init_worker(&state->scanner, state, config, false);
    state->reader.per_view = READS_PER_VIEW;
    state->scanner.per_view = SCANS_PER_VIEW;
    state->scanner.background = true;
    nv_err err = config->vfs ? NV_OK : prepare_files(state, config->dir, why);
    err = err == NV_OK ? open_databases(state, config, why) : err;
    err = err == NV_OK ? start_worker(&state->writer, writer_main, "nv-state-write", why) : err;
    err = err == NV_OK ? start_worker(&state->reader, reader_main, "nv-state-read", why) : err;
    err = err == NV_OK ? start_worker(&state->scanner, reader_main, "nv-state-scan", why) : err;
    if (err != NV_OK) {
        nv_state_close(state);
        return err;
    }
    *out = state;
    return NV_OK;
}

void nv_state_close(nv_state *state)
{
    if (!state) {
        return;
    }
    stop_worker(&state->scanner);
    stop_worker(&state->reader);
    stop_worker(&state->writer); /* the last connection to close folds the write-ahead log into the file */
    if (state->lock_fd >= 0) {
        (void)close(state->lock_fd);
    }
    pthread_cond_destroy(&state->folded);
    pthread_mutex_destroy(&state->fold_lock);
    pthread_mutex_destroy(&state->counts_lock);
    free(state->path);
    free(state);
}

nv_state_counts nv_state_counts_now(nv_state *state)
{
    pthread_mutex_lock(&state->counts_lock);
    nv_state_counts counts = state->counts;
    pthread_mutex_unlock(&state->counts_lock);
    return counts;
}

nv_span nv_state_id(const nv_state *state)
{
    return nv_span_of(state->id, sizeof(state->id) - 1);
}

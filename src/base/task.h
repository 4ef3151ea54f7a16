/**
 * Work handed from one thread to another. A task is a member of a larger structure, so posting
 * allocates nothing. An executor belongs to one thread and runs what is posted to it, in order.
 *
 * Ownership: from post until run() starts, the task belongs to the executor. run() may free it.
 */
#ifndef NV_BASE_TASK_H
#define NV_BASE_TASK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct nv_task nv_task;
struct nv_task {
    nv_task *_next;
    void (*run)(nv_task *task);
};

typedef struct nv_exec nv_exec;
struct nv_exec {
    /** Queue @p task. Never runs it before returning. Thread: any. Blocks: never. */
    void (*post)(nv_exec *exec, nv_task *task);
    /** True on the thread that owns this executor. */
    bool (*is_current)(const nv_exec *exec);
};

static inline void nv_post(nv_exec *exec, nv_task *task)
{
    exec->post(exec, task);
}

static inline bool nv_exec_is_current(const nv_exec *exec)
{
    return exec->is_current(exec);
}

/**
 * A plain executor: a queue somebody drains. Worker threads block in nv_exec_queue_run_wait();
 * tests call nv_exec_queue_run() from one thread and so decide the order of everything.
 */
typedef struct nv_exec_queue {
    nv_exec exec; /* first member: pass &q->exec */
    pthread_mutex_t lock;
    pthread_cond_t ready;
    nv_task *head;
    nv_task *tail;
    pthread_t owner; /* the thread of init, or of the last nv_exec_queue_adopt */
    bool stopping;
} nv_exec_queue;

void nv_exec_queue_init(nv_exec_queue *queue);
void nv_exec_queue_deinit(nv_exec_queue *queue);
/** Make the calling thread the owner. */
void nv_exec_queue_adopt(nv_exec_queue *queue);
/** Run everything that is queued now and what that queues in turn. @return how many tasks ran */
size_t nv_exec_queue_run(nv_exec_queue *queue);
/** Run the oldest that is queued, alone: for tests that stop between two. @return false: there was none */
bool nv_exec_queue_run_one(nv_exec_queue *queue);
/** Nothing is queued now. Thread: any. */
bool nv_exec_queue_empty(nv_exec_queue *queue);
/** Block until there is a task or a stop, then run what is queued. @return false when stopped and empty */
bool nv_exec_queue_run_wait(nv_exec_queue *queue);
/** Make run_wait return false once the queue is empty. Thread: any. */
void nv_exec_queue_stop(nv_exec_queue *queue);

#endif

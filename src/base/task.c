#include "base/task.h"

#include "base/attrs.h"

static nv_exec_queue *queue_of(const nv_exec *exec)
{
    return (nv_exec_queue *)(size_t)(const void *)exec;
}

static void queue_post(nv_exec *exec, nv_task *task)
{
    nv_exec_queue *queue = queue_of(exec);
    task->_next = NULL;
    pthread_mutex_lock(&queue->lock);
    if (queue->tail) {
        queue->tail->_next = task;
    } else {
        queue->head = task;
        pthread_cond_signal(&queue->ready);
    }
    queue->tail = task;
    pthread_mutex_unlock(&queue->lock);
}

static bool queue_is_current(const nv_exec *exec)
{
    nv_exec_queue *queue = queue_of(exec);
    pthread_mutex_lock(&queue->lock);
    bool same = pthread_equal(queue->owner, pthread_self()) != 0;
    pthread_mutex_unlock(&queue->lock);
    return same;
}

void nv_exec_queue_init(nv_exec_queue *queue)
{
    *queue = (nv_exec_queue){.exec = {queue_post, queue_is_current}, .owner = pthread_self()};
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->ready, NULL);
}

void nv_exec_queue_deinit(nv_exec_queue *queue)
{
    pthread_cond_destroy(&queue->ready);
    pthread_mutex_destroy(&queue->lock);
}

void nv_exec_queue_adopt(nv_exec_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->owner = pthread_self();
    pthread_mutex_unlock(&queue->lock);
}

static size_t run_list(nv_task *task)
{
    size_t count = 0;
    while (task) {
        nv_task *next = task->_next; /* run() may free the task */
        task->run(task);
        task = next;
        count++;
    }
    return count;
}

size_t nv_exec_queue_run(nv_exec_queue *queue)
{
    size_t count = 0;
    for (;;) {
        pthread_mutex_lock(&queue->lock);
        nv_task *list = queue->head;
        queue->head = queue->tail = NULL;
        pthread_mutex_unlock(&queue->lock);
        if (!list) {
            return count;
        }
        count += run_list(list);
    }
}

bool nv_exec_queue_run_one(nv_exec_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    nv_task *task = queue->head;
    if (task) {
        queue->head = task->_next;
        queue->tail = queue->head ? queue->tail : NULL;
    }
    pthread_mutex_unlock(&queue->lock);
    if (task) {
        task->run(task);
    }
    return task != NULL;
}

bool nv_exec_queue_empty(nv_exec_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    bool empty = queue->head == NULL;
    pthread_mutex_unlock(&queue->lock);
    return empty;
}

bool nv_exec_queue_run_wait(nv_exec_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    while (!queue->head && !queue->stopping) {
        pthread_cond_wait(&queue->ready, &queue->lock);
    }
    nv_task *list = queue->head;
    queue->head = queue->tail = NULL;
    pthread_mutex_unlock(&queue->lock);
    run_list(list);
    return list != NULL;
}

void nv_exec_queue_stop(nv_exec_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->stopping = true;
    pthread_cond_broadcast(&queue->ready);
    pthread_mutex_unlock(&queue->lock);
}

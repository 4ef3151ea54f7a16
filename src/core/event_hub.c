/*
 * Groups and receivers have one owner, the loop of shard 0.
 *
 *   any loop ---change---> owner ---write---> store
 *                            | committed: memory follows, receivers of a deleted group are evicted
 *   any loop <---done--------+
 *
 *   link's loop ---open---> owner: verdict, who must go is taken from its list
 *               <--opened---
 *               <--evicted--         posted to the victim's loop
 *               ---close---> owner: taken from its list
 *               <--closed---         behind an eviction that was posted before, so nothing comes after it
 *
 * The groups themselves are read by every loop under a lock. Changes complete in the order of their writes, so memory
 * follows the store.
 */
#include "core/event_hub.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "codec/ids.h"
#include "core/hub.h"
#include "store/state.h"
#include "store/state_groups.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static_assert(NV_GROUP_NAME_MAX <= NV_STATE_GROUP_NAME_MAX, "the store keeps every name");

/* Where the hub's name gives none. */
#define ENTITY_FALLBACK "events"
/* What a damaged store may hold at most. */
#define GROUPS_MAX 100000u

enum { CLOSED, OPENING, REFUSED, OPEN, EVICTED, CLOSING_UNANSWERED, CLOSING };

typedef struct group {
    int64_t created_us;
    nv_list receivers[NV_LOG_MAX_PARTITIONS]; /* the owner's */
    size_t name_len;
    char name[NV_GROUP_NAME_MAX];
} group;

struct nv_event_hub {
    nv_hub *hub;
    nv_hub_loop *owner;
    char *entity;
    int64_t created_us;
    uint32_t ops; /* the owner's: in flight */
    pthread_mutex_t lock;
    /* under the lock; written by the owner only */
    group **groups; /* by name in lower case: $Default is the first */
    size_t count;
};

static group *group_new(nv_span name, int64_t created_us)
{
    group *g = nv_calloc(1, sizeof(*g));
    g->created_us = created_us;
    g->name_len = name.len;
    memcpy(g->name, name.ptr, name.len);
    for (size_t i = 0; i < NV_LOG_MAX_PARTITIONS; i++) {
        nv_list_init(&g->receivers[i]);
    }
    return g;
}

static nv_span name_of(const group *g)
{
    return nv_span_of(g->name, g->name_len);
}

/* ---- names ---------------------------------------------------------------------------------------------------- */

bool nv_group_name_is_valid(nv_span name)
{
    return nv_event_name_valid(name, NV_GROUP_NAME_MAX);
}

static bool is_default(nv_span name)
{
    return nv_span_eq_nocase(name, nv_span_str(NV_GROUP_DEFAULT));
}

static uint8_t lower(uint8_t c)
{
    return (uint8_t)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

/* In the order of the store: bytes of the names in lower case. */
static int compare(nv_span a, nv_span b)
{
    for (size_t i = 0; i < a.len && i < b.len; i++) {
        if (lower(a.ptr[i]) != lower(b.ptr[i])) {
            return lower(a.ptr[i]) < lower(b.ptr[i]) ? -1 : 1;
        }
    }
    return a.len < b.len ? -1 : a.len > b.len;
}

/* Where @p name is, or belongs. Under the lock, or by the owner. */
static size_t place_of(const nv_event_hub *eh, nv_span name, bool *found)
{
    size_t low = 0;
    size_t high = eh->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(name_of(eh->groups[middle]), name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *found = low < eh->count && compare(name_of(eh->groups[low]), name) == 0;
    return low;
}

static group *find(const nv_event_hub *eh, nv_span name)
{
    bool found = false;
    size_t place = place_of(eh, name, &found);
    return found ? eh->groups[place] : NULL;
}

/* ---- what everybody asks ---------------------------------------------------------------------------------------- */

nv_span nv_event_hub_entity(const nv_hub *hub)
{
    return nv_span_str(hub->event_hub->entity);
}

bool nv_event_hub_is_entity(const nv_hub *hub, nv_span name)
{
    return nv_span_eq_nocase(nv_event_hub_entity(hub), name);
}

int64_t nv_event_hub_created_us(const nv_hub *hub)
{
    return hub->event_hub->created_us;
}

bool nv_group_exists(nv_hub *hub, nv_span name)
{
    pthread_mutex_lock(&hub->event_hub->lock);
    bool exists = find(hub->event_hub, name) != NULL;
    pthread_mutex_unlock(&hub->event_hub->lock);
    return exists;
}

void nv_groups_list(nv_hub *hub, void (*each)(void *arg, const nv_group *group), void *arg)
{
    nv_event_hub *eh = hub->event_hub;
    pthread_mutex_lock(&eh->lock);
    for (size_t i = 0; i < eh->count; i++) {
        nv_group seen = {name_of(eh->groups[i]), eh->groups[i]->created_us};
        each(arg, &seen);
    }
    pthread_mutex_unlock(&eh->lock);
}

/* ---- receivers ---------------------------------------------------------------------------------------------------
 */

static void evict_on_loop(nv_task *task)
{
    nv_receiver *r = nv_container_of(task, nv_receiver, _evict);
    if (r->_state == OPEN) {
        r->_state = EVICTED;
        r->evicted(r, r->_why);
    }
}

/* Out of its list; its loop hears of it. Thread: the owner's. */
static void evict(nv_receiver *r, nv_receiver_verdict why)
{
    nv_list_remove(&r->_link);
    r->_why = why;
    r->_evict.run = evict_on_loop;
    nv_post(r->_loop->exec, &r->_evict);
}

static nv_receiver *receiver_of(nv_list *link)
{
    return nv_container_of(link, nv_receiver, _link);
}

static void evict_all(nv_list *receivers, nv_receiver_verdict why)
{
    while (!nv_list_empty(receivers)) {
        evict(receiver_of(receivers->next), why);
    }
}

/* amqp.md section 5.6. The same level again takes over: processors that balance their load all use one. */
static nv_receiver_verdict judge(nv_event_hub *eh, nv_list *receivers, const nv_receiver *r)
{
    int64_t count = 0;
    for (nv_list *link = receivers->next; link != receivers; link = link->next) {
        const nv_receiver *other = receiver_of(link);
        if (other->has_epoch && (!r->has_epoch || other->epoch > r->epoch)) {
            return NV_RECEIVER_STOLEN;
        }
        count++;
    }
    return r->has_epoch || count < eh->hub->limits.readers_per_partition ? NV_RECEIVER_OK : NV_RECEIVER_TOO_MANY;
}

static void close_on_owner(nv_task *task);

static void opened_on_loop(nv_task *task)
{
    nv_receiver *r = nv_container_of(task, nv_receiver, _task);
    if (r->_state == CLOSING_UNANSWERED) { /* closed meanwhile: the answer is of no interest */
        r->_state = CLOSING;
        r->_task.run = close_on_owner;
        nv_post(r->_loop->hub->event_hub->owner->exec, &r->_task);
        return;
    }
    assert(r->_state == OPENING);
    r->_state = r->_verdict == NV_RECEIVER_OK ? OPEN : REFUSED;
    r->opened(r, r->_verdict);
}

static void open_on_owner(nv_task *task)
{
    nv_receiver *r = nv_container_of(task, nv_receiver, _task);
    nv_event_hub *eh = r->_loop->hub->event_hub;
    group *g = find(eh, nv_span_of(r->_group, r->_group_len));
    nv_list *receivers = g && r->partition < NV_LOG_MAX_PARTITIONS ? &g->receivers[r->partition] : NULL;
    r->_verdict = receivers ? judge(eh, receivers, r) : NV_RECEIVER_NO_GROUP;
    if (r->_verdict == NV_RECEIVER_OK) {
        if (r->has_epoch) {
            evict_all(receivers, NV_RECEIVER_STOLEN);
        }
        nv_list_push_back(receivers, &r->_link);
    }
    r->_task.run = opened_on_loop;
    nv_post(r->_loop->exec, &r->_task);
}

void nv_receiver_open(nv_hub_loop *loop, nv_receiver *receiver)
{
    nv_receiver *r = receiver;
    r->_loop = loop;
    r->_state = OPENING;
    nv_list_init(&r->_link);
    r->_group_len = r->group.len <= sizeof(r->_group) ? r->group.len : 0; /* longer: there is no such group */
    memcpy(r->_group, r->_group_len ? r->group.ptr : (const uint8_t *)"", r->_group_len);
    r->_task.run = open_on_owner;
    nv_post(loop->hub->event_hub->owner->exec, &r->_task);
}

static void closed_on_loop(nv_task *task)
{
    nv_receiver *r = nv_container_of(task, nv_receiver, _task);
    r->_state = CLOSED;
    r->_closed(r);
}

static void close_on_owner(nv_task *task)
{
    nv_receiver *r = nv_container_of(task, nv_receiver, _task);
    nv_list_remove(&r->_link);
    r->_task.run = closed_on_loop;
    nv_post(r->_loop->exec, &r->_task);
}

void nv_receiver_close(nv_receiver *receiver, void (*done)(nv_receiver *receiver))
{
    nv_receiver *r = receiver;
    r->_closed = done;
    if (r->_state == OPENING) { /* its task is on the way */
        r->_state = CLOSING_UNANSWERED;
        return;
    }
    assert(r->_state == OPEN || r->_state == REFUSED || r->_state == EVICTED);
    r->_state = CLOSING;
    r->_task.run = close_on_owner;
    nv_post(r->_loop->hub->event_hub->owner->exec, &r->_task);
}

/* ---- changes ---------------------------------------------------------------------------------------------------- */

static void insert(nv_event_hub *eh, nv_span name, int64_t created_us)
{
    bool found = false;
    group *g = group_new(name, created_us);
    pthread_mutex_lock(&eh->lock);
    size_t place = place_of(eh, name, &found);
    if (!found) {
        eh->groups = nv_realloc(eh->groups, (eh->count + 1) * sizeof(*eh->groups));
        memmove(eh->groups + place + 1, eh->groups + place, (eh->count - place) * sizeof(*eh->groups));
        eh->groups[place] = g;
        eh->count++;
    }
    pthread_mutex_unlock(&eh->lock);
    if (found) {
        free(g);
    }
}

static void drop(nv_event_hub *eh, nv_span name)
{
    bool found = false;
    pthread_mutex_lock(&eh->lock);
    size_t place = place_of(eh, name, &found);
    group *g = found ? eh->groups[place] : NULL;
    if (g) {
        eh->count--;
        memmove(eh->groups + place, eh->groups + place + 1, (eh->count - place) * sizeof(*eh->groups));
    }
    pthread_mutex_unlock(&eh->lock);
    for (size_t i = 0; g && i < NV_LOG_MAX_PARTITIONS; i++) {
        evict_all(&g->receivers[i], NV_RECEIVER_NO_GROUP);
    }
    free(g);
}

static void done_on_loop(nv_task *task)
{
    nv_group_change *change = nv_container_of(task, nv_group_change, _task);
    change->done(change);
}

static void answer(nv_group_change *change, nv_hub_error error, const char *detail)
{
    change->error = error;
    (void)snprintf(change->detail, sizeof(change->detail), "%s", detail);
    change->_task.run = done_on_loop;
    nv_post(change->_loop->exec, &change->_task);
}

typedef struct change_op {
    nv_state_group_change store; /* first member */
    nv_event_hub *eh;
    nv_group_change *change;
} change_op;

static nv_hub_error error_of(nv_err err)
{
    return err == NV_E_LIMIT                         ? NV_HUB_ERROR_TooManyConsumerGroups
           : err == NV_E_AGAIN || err == NV_E_IN_USE ? NV_HUB_ERROR_ServiceUnavailable
                                                     : nv_hub_error_of(err);
}

static void stored(nv_state_op *op)
{
    change_op *self = nv_container_of(nv_container_of(op, nv_state_group_change, op), change_op, store);
    nv_group_change *change = self->change;
    change->existed = self->store.existed;
    change->created_us = self->store.created_us;
    self->eh->ops--;
    if (op->status == NV_OK && change->create) {
        insert(self->eh, change->name, change->created_us);
    } else if (op->status == NV_OK) {
        drop(self->eh, change->name);
    }
    answer(change, op->status == NV_OK ? NV_HUB_ERROR_NONE : error_of(op->status), "");
    free(self);
}

static void store(nv_event_hub *eh, nv_group_change *change)
{
    change_op *self = nv_calloc(1, sizeof(*self));
    *self = (change_op){.store = {.op = {.exec = eh->owner->exec, .done = stored},
                                  .name = change->name,
                                  .create = change->create,
                                  .max = (uint64_t)eh->hub->limits.consumer_groups,
                                  .now_us = nv_wall_us(eh->hub->clock)},
                        .eh = eh,
                        .change = change};
    nv_err err = nv_state_group_change_do(eh->hub->state, &self->store);
    if (err == NV_OK) {
        eh->ops++;
    } else {
        answer(change, error_of(err), "");
        free(self);
    }
}

static void change_on_owner(nv_task *task)
{
    nv_group_change *change = nv_container_of(task, nv_group_change, _task);
    nv_event_hub *eh = change->_loop->hub->event_hub;
    if (atomic_load_explicit(&eh->hub->_stopping, memory_order_relaxed)) {
        answer(change, NV_HUB_ERROR_ServiceUnavailable, "");
    } else if (is_default(change->name)) {
        change->existed = true;
        change->created_us = eh->created_us;
        if (change->create) {
            answer(change, NV_HUB_ERROR_NONE, "");
        } else {
            answer(change, NV_HUB_ERROR_ArgumentInvalid, "The consumer group " NV_GROUP_DEFAULT " cannot be deleted");
        }
    } else if (!nv_group_name_is_valid(change->name)) {
        answer(change, NV_HUB_ERROR_ArgumentInvalid,
               "The name of a consumer group has 1 to 50 letters, digits, '-', '_' and '.', and begins and ends with a "
               "letter or digit");
    } else {
        store(eh, change);
    }
}

void nv_group_change_do(nv_hub_loop *loop, nv_group_change *change)
{
    change->_loop = loop;
    change->existed = false;
    change->created_us = 0;
    change->_task.run = change_on_owner;
    nv_post(loop->hub->event_hub->owner->exec, &change->_task);
}

/* ---- start and end ---------------------------------------------------------------------------------------------- */

typedef struct loading {
    nv_state_groups store; /* first member */
    nv_exec_queue queue;
    nv_event_hub *eh;
} loading;

static void forget_groups(nv_event_hub *eh)
{
    for (size_t i = 0; i < eh->count; i++) {
        free(eh->groups[i]);
    }
    eh->count = 0;
}

static void begin_loading(void *arg)
{
    forget_groups(((loading *)arg)->eh);
}

static nv_err load_row(void *arg, const nv_group_row *row)
{
    nv_event_hub *eh = ((loading *)arg)->eh;
    if ((!is_default(row->name) && !nv_group_name_is_valid(row->name)) || eh->count >= GROUPS_MAX) {
        return NV_E_CORRUPT;
    }
    insert(eh, row->name, row->created_us);
    return NV_OK;
}

static void loaded(nv_state_op *op)
{
    nv_state_groups *store = nv_container_of(op, nv_state_groups, op);
    nv_exec_queue_stop(&nv_container_of(store, loading, store)->queue);
}

static nv_err load(nv_event_hub *eh)
{
    loading load = {.eh = eh};
    nv_exec_queue_init(&load.queue);
    load.store = (nv_state_groups){
        .op = {.exec = &load.queue.exec, .done = loaded}, .begin = begin_loading, .visit = load_row, .arg = &load};
    nv_err err = nv_state_groups_load(eh->hub->state, &load.store);
    if (err == NV_OK) {
        while (nv_exec_queue_run_wait(&load.queue)) {
        }
        err = load.store.op.status;
    }
    nv_exec_queue_deinit(&load.queue);
    group *first = err == NV_OK ? find(eh, nv_span_str(NV_GROUP_DEFAULT)) : NULL;
    if (err == NV_OK && !first) {
        return NV_E_CORRUPT;
    }
    eh->created_us = first ? first->created_us : 0;
    return err;
}

/* @return NULL: @p entity cannot be the name of one */
static char *entity_name(const nv_hub *hub, const char *entity)
{
    if (entity && entity[0]) {
        return nv_event_hub_name_valid(nv_span_str(entity)) ? nv_strdup(entity) : NULL;
    }
    nv_span host = hub->host_names[0];
    nv_span label = nv_span_first(host, nv_span_find(host, '.'));
    uint64_t number = 0;
    bool usable = nv_event_hub_name_valid(label) && !nv_span_to_u64(label, &number); /* of an address: a number */
    return usable ? nv_span_dup(label) : nv_strdup(ENTITY_FALLBACK);
}

nv_err nv_event_hub_new(nv_event_hub **out, nv_hub *hub, const char *entity, nv_buf *why)
{
    char *name = entity_name(hub, entity);
    if (!name) {
        nv_ignore(
            nv_buf_printf(why,
                          "events.entity: \"%s\" cannot be the name of an event hub: at most 256 letters, "
                          "digits, '-', '_' and '.', the first and last a letter or digit; not `devices` or `messages`",
                          entity));
        return NV_E_INVALID;
    }
    nv_event_hub *eh = nv_calloc(1, sizeof(*eh));
    *eh = (nv_event_hub){.hub = hub, .owner = &hub->loops[hub->shard_to_loop[0]], .entity = name};
    pthread_mutex_init(&eh->lock, NULL);
    nv_err err = load(eh);
    if (err != NV_OK) {
        nv_ignore(nv_buf_printf(why, "the consumer groups cannot be loaded: %s", nv_err_text(err)));
        nv_event_hub_free(eh);
        return err;
    }
    *out = eh;
    return NV_OK;
}

bool nv_event_hub_idle(const nv_event_hub *event_hub)
{
    return event_hub->ops == 0;
}

void nv_event_hub_free(nv_event_hub *event_hub)
{
    if (!event_hub) {
        return;
    }
    forget_groups(event_hub);
    free(event_hub->groups);
    pthread_mutex_destroy(&event_hub->lock);
    free(event_hub->entity);
    free(event_hub);
}

/** Intrusive doubly linked list. A node is in at most one list; a detached node points at itself. */
#ifndef NV_BASE_LIST_H
#define NV_BASE_LIST_H

#include "base/attrs.h"

#include <stdbool.h>

typedef struct nv_list {
    struct nv_list *prev;
    struct nv_list *next;
} nv_list;

static inline void nv_list_init(nv_list *node)
{
    node->prev = node->next = node;
}

static inline bool nv_list_empty(const nv_list *head)
{
    return head->next == head;
}

static inline bool nv_list_linked(const nv_list *node)
{
    return node->next != node;
}

static inline void nv_list_push_back(nv_list *head, nv_list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

/** The first node; @p head itself when the list is empty. */
#ifdef __clang_analyzer__
/* Without a body: it cannot see that nv_list_remove() of the first one leaves another there, and would take what was
 * freed for the first one still. */
nv_list *nv_list_first(const nv_list *head);
#else
static inline nv_list *nv_list_first(const nv_list *head)
{
    return head->next;
}
#endif

/** Detach; harmless on a node that is in no list. */
static inline void nv_list_remove(nv_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    nv_list_init(node);
}

static inline nv_list *nv_list_pop_front(nv_list *head)
{
    if (nv_list_empty(head)) {
        return (nv_list *)0;
    }
    nv_list *node = head->next; /* by hand, so that the static analyzer sees that it is no longer the first */
    head->next = node->next;
    node->next->prev = head;
    nv_list_init(node);
    return node;
}

/** Move all nodes of @p from to the end of @p to; @p from is left empty. */
static inline void nv_list_splice(nv_list *to, nv_list *from)
{
    if (!nv_list_empty(from)) {
        from->next->prev = to->prev;
        from->prev->next = to;
        to->prev->next = from->next;
        to->prev = from->prev;
        nv_list_init(from);
    }
}

#endif

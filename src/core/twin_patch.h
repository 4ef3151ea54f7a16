/**
 * What a client sends to change a twin, checked against the rules of semantics.md section 1.7 and http-hub.md section
 * 8.3 and brought into normal form (core/twin_json.h): a flat tree of nodes over one text. It is made on the loop that
 * asks; the store's thread then merges it into what is there (core/twin_merge.h). Internal to the core's twins.
 */
#ifndef NV_CORE_TWIN_PATCH_H
#define NV_CORE_TWIN_PATCH_H

#include "base/buf.h"
#include "core/registry_rules.h"

/* In one request; more than any twin within the limits of a section can hold beside its deletions. */
#define NV_TWIN_VALUES_MAX 32768u
/* Bounds that the service does not name and the formula for the size leaves open. */
#define NV_TWIN_NUMBER_MAX  128u /* bytes of the text of a number */
#define NV_TWIN_TEXT_FACTOR 8u   /* a section as text, over its limit by the formula */
/* Bounds that it names. */
#define NV_TWIN_KEY_MAX    1024u
#define NV_TWIN_STRING_MAX 4096u
#define NV_TWIN_INT_MAX    INT64_C(4503599627370495)
#define NV_TWIN_INT_MIN    (-INT64_C(4503599627370496))

typedef enum nv_twin_kind { NV_TWIN_NULL, NV_TWIN_SCALAR, NV_TWIN_ARRAY, NV_TWIN_OBJECT } nv_twin_kind;

/** One value. Numbers of nodes are indices, 0 is none; positions are offsets into the text. */
typedef struct nv_twin_node {
    uint32_t key; /* with its quotes; length 0: no member of an object */
    uint32_t key_len;
    uint32_t text;
    uint32_t text_len;
    uint32_t parent;
    uint32_t first; /* child */
    uint32_t next;  /* sibling */
    uint8_t kind;   /* nv_twin_kind */
    bool dropped;   /* another member of the same name came later */
    bool gaps;      /* something inside was dropped: the text does not stand for the value */
    bool nulls;     /* there is a null inside, which is not stored */
    bool seen;      /* for the merge */
} nv_twin_node;

#define NV_TWIN_FEW_NODES 32u

typedef struct nv_twin_patch {
    nv_buf text;
    nv_twin_node *nodes; /* _few, or allocated */
    uint32_t count;      /* node 0 included */
    uint32_t capacity;
    uint32_t *table; /* (parent, key) -> node when there are many; else NULL */
    uint32_t mask;   /* of the table */
    uint64_t seed;   /* of its hash */
    /* the sections it changes, 0: it says nothing of this one */
    uint32_t tags;
    uint32_t desired;
    uint32_t reported;
    nv_twin_node _few[NV_TWIN_FEW_NODES];
} nv_twin_patch;

typedef enum nv_twin_form {
    NV_TWIN_FORM_PATCH,   /* a twin; null deletes */
    NV_TWIN_FORM_REPLACE, /* a twin; a null is refused inside of a section */
    NV_TWIN_FORM_REPORTED /* the reported section alone; null deletes */
} nv_twin_form;

/**
 * Read and check @p body. The patch does not keep it. Deinit in any case. It may move only before this.
 * @return false: refused, the verdict says why, naming the path
 */
bool nv_twin_patch_init(nv_twin_patch *patch, nv_span body, nv_twin_form form, nv_verdict *verdict);
void nv_twin_patch_deinit(nv_twin_patch *patch);

static inline nv_span nv_twin_node_key(const nv_twin_patch *patch, const nv_twin_node *node)
{
    return nv_span_of(patch->text.data + node->key, node->key_len);
}

static inline nv_span nv_twin_node_text(const nv_twin_patch *patch, const nv_twin_node *node)
{
    return nv_span_of(patch->text.data + node->text, node->text_len);
}

/** The member of an object by its quoted name; 0: none. */
uint32_t nv_twin_patch_member(const nv_twin_patch *patch, uint32_t object, nv_span key);

#endif

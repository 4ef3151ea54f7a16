/*
 * Registry and twins. The reference works through the operations of a batch in the order in which they were asked,
 * which is the order in which the hub promises to carry them out; reads may see any state between what had been
 * answered when they were asked and what had been asked when they were answered.
 */
#include "core/model.h"

#include "base/alloc.h"
#include "codec/json.h"
#include "core/twin.h"

#include <stdlib.h>
#include <string.h>

typedef enum entry_kind { ENTRY_CREATE, ENTRY_DELETE, ENTRY_ENABLE, ENTRY_DISABLE, ENTRY_TWIN } entry_kind;

/** One operation. */
typedef struct model_entry {
    model *w;
    entry_kind kind;
    uint32_t slot;
    bool bad;      /* the body may not stand in a twin */
    bool verifies; /* a GET when all is quiet */
    char *body;
    nv_twin_request twin;
    nv_registry_request registry;
    uint64_t asked; /* stamps */
    uint64_t answered;
} model_entry;

/** A twin between two operations. */
typedef struct model_shot {
    bool exists;
    uint64_t generation;
    uint64_t etag;
    uint64_t version;
    uint64_t desired_version;
    uint64_t reported_version;
    json_object *tags;
    json_object *desired;
    json_object *reported;
    uint64_t asked; /* of the operation that made it */
    uint64_t answered;
} model_shot;

static const nv_key key = {"device-key-device-key-device-key", 32};

/* ---- the reference's twin ---- */

static void slot_clear(model_slot *slot)
{
    json_object_put(slot->tags);
    json_object_put(slot->desired);
    json_object_put(slot->reported);
    slot->tags = json_object_new_object();
    slot->desired = json_object_new_object();
    slot->reported = json_object_new_object();
    slot->etag = 1;
    slot->version = 2;
    slot->desired_version = slot->reported_version = 1;
}

static void shoot(model_slot *slot, uint64_t asked, uint64_t answered)
{
    slot->shots = nv_realloc(slot->shots, (slot->shot_count + 1) * sizeof(*slot->shots));
    slot->shots[slot->shot_count++] = (model_shot){.exists = slot->exists,
                                                   .generation = slot->generation,
                                                   .etag = slot->etag,
                                                   .version = slot->version,
                                                   .desired_version = slot->desired_version,
                                                   .reported_version = slot->reported_version,
                                                   .tags = json_object_get(slot->tags),
                                                   .desired = json_object_get(slot->desired),
                                                   .reported = json_object_get(slot->reported),
                                                   .asked = asked,
                                                   .answered = answered};
}

static void forget_batch(model_slot *slot)
{
    for (size_t i = 0; i < slot->shot_count; i++) {
        json_object_put(slot->shots[i].tags);
        json_object_put(slot->shots[i].desired);
        json_object_put(slot->shots[i].reported);
    }
    for (size_t i = 0; i < slot->news_count; i++) {
        json_object_put(slot->news[i].body);
    }
    free(slot->shots);
    free(slot->news);
    slot->shots = NULL;
    slot->news = NULL;
    slot->shot_count = slot->news_count = 0;
}

void model_twin_open(model *w)
{
    static const struct {
        const char *device;
        const char *module;
        uint32_t parent;
    } ids[MODEL_SLOTS] = {{"d0", "", 0}, {"d1", "", 1},  {"d2", "", 2},  {"d3", "", 3},
                          {"d4", "", 4}, {"d0", "m", 0}, {"d1", "m1", 1}};
    for (uint32_t i = 0; i < MODEL_SLOTS; i++) {
        w->slots[i] = (model_slot){.device = ids[i].device, .module = ids[i].module, .parent = ids[i].parent};
        slot_clear(&w->slots[i]);
    }
}

static void forget_entries(model *w)
{
    for (size_t i = 0; i < w->entry_count; i++) {
        nv_twin_unref(w->entries[i]->twin.twin);
        nv_identity_unref(w->entries[i]->registry.identity);
        free(w->entries[i]->body);
        free(w->entries[i]);
    }
    free(w->entries);
    w->entries = NULL;
    w->entry_count = 0;
}

void model_twin_begin(model *w)
{
    forget_entries(w);
    for (uint32_t i = 0; i < MODEL_SLOTS; i++) {
        forget_batch(&w->slots[i]);
        shoot(&w->slots[i], 0, 0);
        w->slots[i].stirred = false;
    }
}

void model_twin_close(model *w)
{
    forget_entries(w);
    for (uint32_t i = 0; i < MODEL_SLOTS; i++) {
        forget_batch(&w->slots[i]);
        json_object_put(w->slots[i].tags);
        json_object_put(w->slots[i].desired);
        json_object_put(w->slots[i].reported);
    }
}

/* ---- asking ---- */

static model_entry *entry_new(model *w, entry_kind kind, uint32_t slot)
{
    model_entry *entry = nv_calloc(1, sizeof(*entry));
    *entry = (model_entry){.w = w, .kind = kind, .slot = slot, .asked = ++w->stamp};
    w->entries = nv_realloc(w->entries, (w->entry_count + 1) * sizeof(*w->entries));
    w->entries[w->entry_count++] = entry;
    return entry;
}

static void twin_done(nv_twin_request *request)
{
    model_entry *entry = nv_container_of(request, model_entry, twin);
    if (entry->answered) {
        model_fail(entry->w, "entry %llu was answered twice", (unsigned long long)entry->asked);
    }
    entry->answered = ++entry->w->stamp;
    model_note(entry->w, "  %llu: %s %s", (unsigned long long)entry->asked, nv_hub_error_info_of(request->error)->name,
               request->detail);
}

static void registry_done(nv_registry_request *request)
{
    model_entry *entry = nv_container_of(request, model_entry, registry);
    if (entry->answered) {
        model_fail(entry->w, "entry %llu was answered twice", (unsigned long long)entry->asked);
    }
    entry->answered = ++entry->w->stamp;
    model_note(entry->w, "  %llu: %s %s", (unsigned long long)entry->asked, nv_hub_error_info_of(request->error)->name,
               request->detail);
}

/* A twin as services send it: sections given or not, and sometimes what is to be ignored. */
static char *service_body(model *w, bool nulls, bool *bad)
{
    char body[10000];
    *bad = model_one_in(w, 20);
    char *tags = *bad && model_one_in(w, 2) ? model_json_bad(w) : model_json_random(w, nulls);
    char *desired = *bad ? model_json_bad(w) : model_json_random(w, nulls);
    uint32_t shape = *bad ? 0 : model_below(w, nulls ? 10 : 8);
    if (shape <= 2) {
        (void)snprintf(body, sizeof(body), "{\"tags\":%s,\"properties\":{\"desired\":%s}}", tags, desired);
    } else if (shape <= 5) {
        (void)snprintf(body, sizeof(body), "{\"properties\":{\"desired\":%s}}", desired);
    } else if (shape == 6) {
        (void)snprintf(body, sizeof(body), "{\"tags\":%s}", tags);
    } else if (shape == 7) {
        (void)snprintf(body, sizeof(body),
                       " {\"deviceId\":\"zz\",\"version\":77,\"tags\": %s,\n\"properties\":{\"reported\":{\"no\":1},"
                       "\"desired\":%s},\"etag\":\"x\"}",
                       tags, desired);
    } else if (shape == 8) {
        (void)snprintf(body, sizeof(body), "{\"tags\":%s,\"properties\":{\"desired\":null}}", tags);
    } else {
        (void)snprintf(body, sizeof(body), "{\"tags\":null,\"properties\":{\"desired\":%s}}", desired);
    }
    free(tags);
    free(desired);
    return nv_strdup(body);
}

static void ask_twin(model *w, model_entry *entry, nv_hub_loop *loop)
{
    const model_slot *slot = &w->slots[entry->slot];
    nv_twin_request *request = &entry->twin;
    request->device_id = nv_span_str(slot->device);
    request->module_id = nv_span_str(slot->module);
    request->body = entry->body ? nv_span_str(entry->body) : NV_SPAN_EMPTY;
    request->done = twin_done;
    static const char *const verbs[] = {"GET", "PATCH", "REPLACE", "REPORTED"};
    model_note(w, "%llu %s %s/%s %s%s%llu%s gen %llu", (unsigned long long)entry->asked, verbs[request->verb],
               slot->device, slot->module, entry->body ? entry->body : "",
               request->precondition == NV_IF_ETAG ? " if-match "
               : request->has_version              ? " if-version "
                                                   : " - ",
               (unsigned long long)(request->has_version ? request->version : request->etag), entry->bad ? " bad" : "",
               (unsigned long long)request->generation);
    nv_twin_do(loop, request);
    if (entry->answered) {
        model_fail(w, "answered from within the call");
    }
}

static void patch_reported(model *w, uint32_t index)
{
    const model_conn *conn = model_conn_of(w, index);
    model_entry *entry = entry_new(w, ENTRY_TWIN, index);
    entry->bad = model_one_in(w, 20);
    entry->body = entry->bad ? model_json_bad(w) : model_json_random(w, true);
    entry->twin.verb = NV_TWIN_REPORTED;
    entry->twin.generation = conn ? conn->generation : 0;
    entry->twin.has_version = model_one_in(w, 5);
    entry->twin.version = w->slots[index].reported_version + model_below(w, 2);
    ask_twin(w, entry, conn ? conn->loop : model_loop(w));
}

void model_twin_patch(model *w)
{
    uint32_t index = model_below(w, MODEL_SLOTS);
    if (model_one_in(w, 3)) {
        patch_reported(w, index);
        return;
    }
    model_entry *entry = entry_new(w, ENTRY_TWIN, index);
    entry->twin.verb = model_one_in(w, 4) ? NV_TWIN_REPLACE : NV_TWIN_PATCH;
    entry->body = service_body(w, entry->twin.verb == NV_TWIN_PATCH, &entry->bad);
    entry->twin.precondition = model_one_in(w, 4) ? NV_IF_ETAG : model_one_in(w, 2) ? NV_IF_ANY : NV_IF_NONE;
    entry->twin.etag = w->slots[index].etag + (model_one_in(w, 3) ? model_below(w, 3) : 0);
    ask_twin(w, entry, model_loop(w));
}

static model_entry *get(model *w, uint32_t slot)
{
    model_entry *entry = entry_new(w, ENTRY_TWIN, slot);
    entry->twin.verb = NV_TWIN_GET;
    ask_twin(w, entry, model_loop(w));
    return entry;
}

void model_twin_get(model *w)
{
    (void)get(w, model_below(w, MODEL_SLOTS));
}

void model_registry_change(model *w)
{
    static const char *const words[] = {"create", "delete", "enable", "disable"};
    uint32_t index = model_below(w, MODEL_SLOTS);
    for (uint32_t i = 0; i < MODEL_SLOTS && model_one_in(w, 2); i++) {
        index = w->slots[i].exists ? index : i; /* more is to be had of those that exist */
    }
    model_slot *slot = &w->slots[index];
    bool device = index < MODEL_DEVICES;
    entry_kind kind = !slot->exists || model_one_in(w, 8) ? ENTRY_CREATE
                      : model_one_in(w, 4)                ? ENTRY_DELETE
                      : !device                           ? ENTRY_CREATE
                      : model_one_in(w, 4)                ? ENTRY_DISABLE
                                                          : ENTRY_ENABLE;
    model_entry *entry = entry_new(w, kind, index);
    nv_registry_request *request = &entry->registry;
    *request = (nv_registry_request){.verb = kind == ENTRY_DELETE ? NV_REGISTRY_DELETE : NV_REGISTRY_PUT,
                                     .spec = {.device_id = nv_span_str(slot->device),
                                              .module_id = nv_span_str(slot->module),
                                              .enabled = kind != ENTRY_DISABLE,
                                              .auth = NV_AUTH_SAS,
                                              .has_keys = true,
                                              .primary_key = key,
                                              .secondary_key = key},
                                     .precondition = kind == ENTRY_CREATE ? NV_IF_NONE : NV_IF_ANY,
                                     .done = registry_done};
    request->spec.secondary_key.bytes[0] ^= 1;
    for (uint32_t i = 0; i < MODEL_SLOTS; i++) {
        bool touched = i == index || (device && w->slots[i].parent == index);
        w->slots[i].stirred = w->slots[i].stirred || touched;
    }
    model_note(w, "%llu %s %s/%s", (unsigned long long)entry->asked, words[kind], slot->device, slot->module);
    w->done[DID_REGISTRY]++;
    nv_registry_do(model_loop(w), request);
}

/* ---- what should have come of it ---- */

static _Noreturn void differs(model_entry *entry, const char *what, const char *want, const char *got)
{
    model_fail(entry->w, "entry %llu on %s/%s: %s: want %s, got %s", (unsigned long long)entry->asked,
               entry->w->slots[entry->slot].device, entry->w->slots[entry->slot].module, what, want, got);
}

static void want_number(model_entry *entry, const char *what, uint64_t want, uint64_t got)
{
    if (want != got) {
        char texts[2][24];
        (void)snprintf(texts[0], sizeof(texts[0]), "%llu", (unsigned long long)want);
        (void)snprintf(texts[1], sizeof(texts[1]), "%llu", (unsigned long long)got);
        differs(entry, what, texts[0], texts[1]);
    }
}

static void want_error(model_entry *entry, nv_hub_error want, nv_hub_error or_else, nv_hub_error got)
{
    if (got != want && got != or_else) {
        differs(entry, "answer", nv_hub_error_info_of(want)->name, nv_hub_error_info_of(got)->name);
    }
}

static void want_document(model_entry *entry, const char *what, const json_object *want, nv_span got)
{
    json_object *value = model_json_parse((const char *)got.ptr, got.len);
    if (!model_json_eq(want, value)) {
        differs(entry, what, model_json_text(want), value ? model_json_text(value) : "no JSON");
    }
    json_object_put(value);
}

static void want_twin(model_entry *entry, const model_shot *want)
{
    const nv_twin *twin = entry->twin.twin;
    uint64_t generation = 0;
    (void)nv_span_to_u64(twin->identity->generation_id, &generation);
    want_number(entry, "generation", want->generation, generation);
    want_number(entry, "version", want->version, twin->version);
    want_number(entry, "etag", want->etag, twin->etag);
    want_number(entry, "desired.$version", want->desired_version, twin->desired_version);
    want_number(entry, "reported.$version", want->reported_version, twin->reported_version);
    want_document(entry, "tags", want->tags, twin->tags);
    want_document(entry, "desired", want->desired, twin->desired);
    want_document(entry, "reported", want->reported, twin->reported);
}

/* Registry: the answer follows from what was there. */
static void work_registry(model *w, model_entry *entry)
{
    model_slot *slot = &w->slots[entry->slot];
    bool device = entry->slot < MODEL_DEVICES;
    nv_hub_error got = entry->registry.error;
    if (model_store_failed(w, got)) {
        return;
    }
    const model_slot *parent = &w->slots[slot->parent];
    if (!device && (!parent->exists || !parent->enabled)) {
        want_error(entry, NV_HUB_ERROR_IotHubUnauthorizedAccess, NV_HUB_ERROR_IotHubUnauthorizedAccess, got);
    } else if (entry->kind == ENTRY_CREATE) {
        if (slot->exists) {
            want_error(entry, NV_HUB_ERROR_DeviceAlreadyExists, NV_HUB_ERROR_ModuleAlreadyExistsOnDevice, got);
        } else {
            uint64_t generation = 0;
            want_error(entry, NV_HUB_ERROR_NONE, NV_HUB_ERROR_NONE, got);
            (void)nv_span_to_u64(entry->registry.identity->generation_id, &generation);
            if (generation <= slot->generation) {
                differs(entry, "generation", "a larger one", "an old one");
            }
            slot->exists = slot->enabled = true;
            slot->generation = generation;
            slot_clear(slot);
        }
    } else if (!slot->exists) {
        nv_hub_error want = device ? NV_HUB_ERROR_DeviceNotFound : NV_HUB_ERROR_ModuleNotFound;
        want_error(entry, want, want, got);
    } else {
        want_error(entry, NV_HUB_ERROR_NONE, NV_HUB_ERROR_NONE, got);
        slot->exists = entry->kind != ENTRY_DELETE;
        slot->enabled = entry->kind == ENTRY_ENABLE;
        for (uint32_t i = MODEL_DEVICES; i < MODEL_SLOTS && device && !slot->exists; i++) {
            w->slots[i].exists = w->slots[i].exists && w->slots[i].parent != entry->slot;
        }
    }
}

static void add_news(model_slot *slot, json_object *body)
{
    slot->news = nv_realloc(slot->news, (slot->news_count + 1) * sizeof(*slot->news));
    slot->news[slot->news_count++] = (model_news){slot->desired_version, body};
}

/* A section after the change; the caller's. */
static json_object *changed(const json_object *from, const json_object *patch, bool merges)
{
    json_object *to = merges && patch ? model_json_copy(from) : json_object_new_object();
    if (patch) {
        model_json_merge(to, patch);
    }
    return to;
}

static void set_section(json_object **section, json_object *to)
{
    json_object_put(*section);
    *section = to;
}

/* @return false: it does not fit, nothing changed */
static bool work_service(model_slot *slot, json_object *body, bool merges)
{
    json_object *tags = NULL;
    json_object *properties = NULL;
    json_object *desired = NULL;
    bool has_tags = json_object_object_get_ex(body, "tags", &tags) || !merges;
    bool has_properties = json_object_object_get_ex(body, "properties", &properties);
    bool has_desired = (has_properties && json_object_object_get_ex(properties, "desired", &desired)) || !merges;
    json_object *new_tags = has_tags ? changed(slot->tags, tags, merges) : json_object_get(slot->tags);
    json_object *new_desired = has_desired ? changed(slot->desired, desired, merges) : json_object_get(slot->desired);
    if (!model_json_fits(new_tags, MODEL_SECTION) || !model_json_fits(new_desired, MODEL_SECTION)) {
        json_object_put(new_tags);
        json_object_put(new_desired);
        return false;
    }
    slot->version++;
    slot->etag++;
    if (has_desired) {
        slot->desired_version++;
        add_news(slot, !merges   ? json_object_get(new_desired)
                       : desired ? json_object_get(desired)
                                 : model_json_nulls(slot->desired));
    }
    set_section(&slot->tags, new_tags);
    set_section(&slot->desired, new_desired);
    return true;
}

static bool work_reported(model_slot *slot, const json_object *patch)
{
    json_object *reported = changed(slot->reported, patch, true);
    if (!model_json_fits(reported, MODEL_SECTION)) {
        json_object_put(reported);
        return false;
    }
    slot->version++;
    slot->reported_version++;
    set_section(&slot->reported, reported);
    return true;
}

static bool precondition_holds(const model_slot *slot, const nv_twin_request *request)
{
    return (request->precondition != NV_IF_ETAG || request->etag == slot->etag) &&
           (!request->has_version || request->version == slot->reported_version);
}

static void work_write(model *w, model_entry *entry)
{
    model_slot *slot = &w->slots[entry->slot];
    const nv_twin_request *request = &entry->twin;
    nv_hub_error got = request->error;
    if (got == NV_HUB_ERROR_PreconditionFailed) {
        w->done[DID_STALE]++;
    }
    if (entry->bad) {
        want_error(entry, NV_HUB_ERROR_ArgumentInvalid, NV_HUB_ERROR_IotHubFormatError, got);
        w->done[DID_REFUSED]++;
    } else if (model_store_failed(w, got)) {
        return;
    } else if (!slot->exists || (request->generation && request->generation != slot->generation)) {
        want_error(entry, NV_HUB_ERROR_DeviceNotFound, NV_HUB_ERROR_ModuleNotFound, got);
    } else if (!precondition_holds(slot, request)) {
        want_error(entry, NV_HUB_ERROR_PreconditionFailed, NV_HUB_ERROR_PreconditionFailed, got);
    } else {
        json_object *body = model_json_parse(entry->body, strlen(entry->body));
        bool reported = request->verb == NV_TWIN_REPORTED;
        bool fits = reported ? work_reported(slot, body) : work_service(slot, body, request->verb == NV_TWIN_PATCH);
        nv_hub_error want = fits ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_ArgumentInvalid;
        json_object_put(body);
        want_error(entry, want, want, got);
        w->done[fits ? DID_WRITES : DID_REFUSED]++;
    }
}

/* What a write answered is the twin as it stands now. */
static void check_answer(model *w, model_entry *entry)
{
    model_slot *slot = &w->slots[entry->slot];
    shoot(slot, entry->asked, entry->answered);
    if (entry->twin.error != NV_HUB_ERROR_NONE) {
        return;
    }
    if (entry->twin.verb == NV_TWIN_REPORTED) {
        want_number(entry, "reported.$version", slot->reported_version, entry->twin.reported_version);
    } else {
        want_twin(entry, &slot->shots[slot->shot_count - 1]);
    }
}

/* ---- reads ---- */

static bool could_be(const model_shot *shot, const nv_twin_request *request)
{
    if (request->error != NV_HUB_ERROR_NONE) {
        return !shot->exists &&
               (request->error == NV_HUB_ERROR_DeviceNotFound || request->error == NV_HUB_ERROR_ModuleNotFound);
    }
    uint64_t generation = 0;
    (void)nv_span_to_u64(request->twin->identity->generation_id, &generation);
    return shot->exists && shot->generation == generation && shot->version == request->twin->version;
}

/* The newest state that had been answered when it was asked, or one that came later. */
static void check_get(model *w, model_entry *entry)
{
    const model_slot *slot = &w->slots[entry->slot];
    w->done[DID_GETS]++;
    size_t from = 0;
    for (size_t i = 0; i < slot->shot_count; i++) {
        from = slot->shots[i].answered < entry->asked ? i : from;
    }
    if (model_store_failed(w, entry->twin.error)) {
        return;
    }
    for (size_t i = from; i < slot->shot_count && slot->shots[i].asked < entry->answered; i++) {
        if (could_be(&slot->shots[i], &entry->twin)) {
            if (slot->shots[i].exists) {
                want_twin(entry, &slot->shots[i]);
            }
            return;
        }
    }
    const nv_twin *twin = entry->twin.twin;
    model_fail(w, "entry %llu: GET of %s/%s answers %s, version %llu: no state from version %llu%s on was so",
               (unsigned long long)entry->asked, slot->device, slot->module,
               nv_hub_error_info_of(entry->twin.error)->name, twin ? (unsigned long long)twin->version : 0,
               (unsigned long long)slot->shots[from].version, slot->shots[from].exists ? "" : " (absent)");
}

void model_twin_check(model *w)
{
    for (size_t i = 0; i < w->entry_count; i++) {
        model_entry *entry = w->entries[i];
        if (!entry->answered) {
            differs(entry, "answer", "any", "none");
        }
        if (entry->kind != ENTRY_TWIN) {
            work_registry(w, entry);
            for (uint32_t s = 0; s < MODEL_SLOTS; s++) {
                if (s == entry->slot || w->slots[s].parent == entry->slot) {
                    shoot(&w->slots[s], entry->asked, entry->answered);
                }
            }
            if (entry->kind == ENTRY_DELETE && entry->registry.error == NV_HUB_ERROR_NONE) {
                model_c2d_slot_gone(w, entry->slot);
            }
        } else if (entry->twin.verb != NV_TWIN_GET) {
            work_write(w, entry);
            check_answer(w, entry);
        }
    }
    for (size_t i = 0; i < w->entry_count; i++) {
        if (w->entries[i]->kind == ENTRY_TWIN && w->entries[i]->twin.verb == NV_TWIN_GET) {
            check_get(w, w->entries[i]);
        }
    }
}

/* ---- when all is quiet ---- */

static void want_rendering(model_entry *entry, const model_slot *slot)
{
    nv_buf text;
    nv_buf_init(&text, 1u << 20);
    nv_json_writer writer = nv_json_writer_of(&text);
    nv_twin_write_device(entry->twin.twin, &writer);
    json_object *sections[] = {model_json_copy(slot->desired), model_json_copy(slot->reported)};
    json_object_object_add(sections[0], "$version", json_object_new_int64((int64_t)slot->desired_version));
    json_object_object_add(sections[1], "$version", json_object_new_int64((int64_t)slot->reported_version));
    json_object *whole = json_object_new_object();
    json_object_object_add(whole, "desired", sections[0]);
    json_object_object_add(whole, "reported", sections[1]);
    want_document(entry, "what the device sees", whole, nv_buf_span(&text));
    json_object_put(whole);
    nv_buf_deinit(&text);
}

void model_twin_verify(model *w)
{
    size_t from = w->entry_count;
    for (uint32_t i = 0; i < MODEL_SLOTS; i++) {
        (void)get(w, i);
    }
    model_quiet(w);
    for (uint32_t i = 0; i < MODEL_SLOTS; i++) {
        model_entry *entry = w->entries[from + i];
        model_slot *slot = &w->slots[i];
        if (!entry->answered) {
            differs(entry, "answer", "any", "none");
        }
        check_get(w, entry);
        if (entry->twin.error == NV_HUB_ERROR_NONE) {
            want_rendering(entry, slot);
            want_number(entry, "connected", model_conn_of(w, i) != NULL, entry->twin.twin->presence.connected);
            if (i < MODEL_DEVICES) {
                want_number(entry, "cloudToDeviceMessageCount", model_c2d_depth(w, i), entry->twin.twin->c2d_count);
                want_number(entry, "enabled", slot->enabled, entry->twin.twin->identity->enabled);
            }
        }
    }
}

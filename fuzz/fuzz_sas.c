/** Shared access signatures: parsing, every check and every explanation; no foreign signature ever fits. */
#include "codec/sas.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const nv_span names[] = {NV_SPAN_LIT("myhub"), NV_SPAN_LIT("::1")};
    static const nv_sas_hosts hosts = {names, NV_COUNT_OF(names)};
    nv_span device = NV_SPAN_LIT("d");
    nv_span module = NV_SPAN_LIT("m");
    nv_span path = NV_SPAN_LIT("/devices/d/modules/m");
    nv_span key = NV_SPAN_LIT("no corpus file is signed with this key");
    nv_sas sas;
    nv_sas_fault faults[5];
    char text[300];
    faults[0] = nv_sas_parse(nv_span_of(data, size), &sas);
    faults[1] = nv_sas_check_expiry(&sas, 1700000000, 0);
    faults[2] = nv_sas_check_entity(&sas, hosts, device, NV_SPAN_EMPTY);
    faults[3] = nv_sas_check_entity(&sas, hosts, device, module);
    faults[4] = nv_sas_check_path(&sas, hosts, path);
    for (size_t i = 0; i < NV_COUNT_OF(faults); i++) {
        size_t len = nv_sas_explain(&sas, faults[i], 1700000000, text, sizeof(text));
        if (len == 0 || len >= sizeof(text) || text[len] != '\0') {
            abort();
        }
    }
    if (faults[0] == NV_SAS_NONE && nv_sas_verify(&sas, key) != NV_SAS_SIGNATURE) {
        abort();
    }
    return 0;
}

package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
)

// TestOutage: an image of which a layer is missing has gaps, and is repaired.
func TestOutage(t *testing.T) {
	h := start(t)
	h.wants(Done, "outage", `^No client has pulled an image within 30 days.\n$`)
	img := h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 100_000), fakehub.RandomBlob(2, 50_000))
	h.pull()
	h.wants(Done, "outage --days 1", "^1 of 1 image pulled within 1 day could")
	h.api("purge", api.PurgeRequest{Digest: img.Layers[1].Digest})
	r := h.run("outage")
	for _, part := range []string{"0 of 1 image", "docker.io/library/demo:v1", "1 layer, 50 kB", "evicted", "hubcap outage --repair: fetches 50 kB for 1 image."} {
		if !strings.Contains(r.out, part) || r.code != InPart {
			t.Errorf("%q is not in %+v", part, r)
		}
	}
	h.wants(Done, "status", "0 of 1 image of 30 days would survive")
	h.wants(Done, "outage --repair --dry-run", `^This fetches 50 kB for 1 image.\n$`)
	h.wants(Done, "outage --repair", `repaired(.|\n)*1 of 1, 50 kB`)
	if r := h.run("outage --json"); r.code != Done || !json.Valid([]byte(r.out)) || !strings.Contains(r.out, `"ready": 1`) {
		t.Errorf("%+v", r)
	}
	h.wants(Done, "outage --repair", "there is nothing that it could fetch")
}

// api gives an order of the API.
func (h *hubcap) api(path string, body any) {
	h.T.Helper()
	p := &program{Options: Options{Environ: h.environ}}
	if _, _, err := ask[any](h.T.Context(), p, http.MethodPost, path, nil, body); err != nil {
		h.T.Fatal(err)
	}
}

// TestOffline: the box is taken offline for a time, and online again.
func TestOffline(t *testing.T) {
	h := start(t)
	h.wants(Done, "offline", "Online: registries are asked.")
	h.wants(Done, "offline on --for 30m", "no registry is asked until ")
	h.wants(Done, "offline", ", or hubcap offline off.")
	h.wants(Done, "offline --json", `"on": true`)
	h.wants(Done, "offline on", "until hubcap offline off.")
	h.wants(Usage, "offline off --for 1h", "--for is for hubcap offline on")
	h.wants(Usage, "offline maybe", "usage: hubcap offline")
	h.wants(Done, "offline off", "Online")
	start(t, "HUBCAP_OFFLINE=true").wants(Failed, "offline off", "HUBCAP_OFFLINE is set")
}
